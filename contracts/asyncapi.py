"""Exports the wire as an AsyncAPI 3.0 document, `contracts/asyncapi.json`, for programs in other languages.

Run it as `python -m contracts.asyncapi` (`make schemas`); a test keeps the file fresh. It is written from
Keyway's side: what Keyway receives, an automation sends.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from pydantic.json_schema import models_json_schema

from contracts import names
from contracts.json_schema import MESSAGE_TYPES, WRITTEN_BY_AUTOMATIONS, mode_of

Json: TypeAlias = dict[str, Any]

DOCUMENT = Path(__file__).parent / "asyncapi.json"
#: The wire's version; the second number grows with what is added, the first with what would break.
WIRE_VERSION = "1.0.0"
VHOST = "keyway"
BINDING_VERSION = "0.3.0"

#: The AMQP properties of a message, as its headers stand in AsyncAPI; `x-amqp-properties` of a message.
REQUEST_PROPERTIES: Json = {
    "content_type": "application/json",
    "message_id": "the request's id and idempotency key, 1 to 128 characters; absent: the worker makes one",
    "correlation_id": "comes back with the answer",
    "reply_to": f"{names.DIRECT_REPLY_TO} or a queue replies.<automation>[.<name>]; absent: nobody waits",
    "expiration": "optional; milliseconds after which the request is answered with deadline_exceeded",
}
ANSWER_PROPERTIES: Json = {
    "content_type": "application/json",
    "message_id": "the request's id",
    "correlation_id": "the request's",
}
EVENT_PROPERTIES: Json = {"content_type": "application/json"}

#: What is said of each message, and with which properties it comes.
MESSAGES: dict[str, tuple[str, Json]] = {
    names.GENERATION_REQUEST: ("Asks for one generation.", REQUEST_PROPERTIES),
    names.GENERATION_RESULT: ("The one answer to a request.", ANSWER_PROPERTIES),
    names.GENERATION_CHUNK: ("A piece of a streamed answer; the result follows the last.", ANSWER_PROPERTIES),
    names.KEY_LEASE_REQUEST: ("Asks for an API key to call the provider itself.", REQUEST_PROPERTIES),
    names.KEY_LEASE: ("The key, lent until it expires.", ANSWER_PROPERTIES),
    names.USAGE_RECORDED: ("One attempt at the provider, for the books.", EVENT_PROPERTIES),
    names.USAGE_REPORTED: ("What was spent on a leased key.", EVENT_PROPERTIES),
    names.HEARTBEAT: ("A process of an automation is alive.", EVENT_PROPERTIES),
    names.KEY_STATUS_CHANGED: ("A key's status changed.", EVENT_PROPERTIES),
    names.BUDGET_CROSSED: ("Spending crossed a threshold of a budget.", EVENT_PROPERTIES),
    names.CONFIG_CHANGED: ("An operator changed keys, limits or the automation.", EVENT_PROPERTIES),
}
EVENTS = [name for name, (_, properties) in MESSAGES.items() if properties is EVENT_PROPERTIES]
PARAMETERS: Json = {"automation": {"$ref": "#/components/parameters/automation"}}
#: `{automation}` in an address or a queue's name.
ANY = "{automation}"


def document() -> Json:
    """The AsyncAPI document."""
    channels = _channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Keyway",
            "version": WIRE_VERSION,
            "description": "OpenAI generations for automations, over RabbitMQ (docs/wire.md, version 1).",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "rabbitmq": {
                "host": "rabbitmq:5672",
                "pathname": f"/{VHOST}",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "The user is the automation's id, the password its service token.",
                "security": [{"$ref": "#/components/securitySchemes/serviceToken"}],
            }
        },
        "channels": channels,
        "operations": _operations(channels),
        "components": {
            "securitySchemes": {"serviceToken": {"type": "userPassword"}},
            "parameters": {
                "automation": {"description": f"An automation's id: {names.AUTOMATION_ID_PATTERN}"}
            },
            "messages": {message_type: _message(message_type) for message_type in MESSAGE_TYPES},
            "schemas": _schemas(),
        },
    }


def text() -> str:
    """The document, as its file has it."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def export(path: Path = DOCUMENT) -> None:
    """Write the file."""
    path.write_text(text(), encoding="utf-8")


def _channels() -> Json:
    answers = [names.GENERATION_CHUNK, names.GENERATION_RESULT, names.KEY_LEASE]
    return {
        "requests": _routed(names.REQUESTS_EXCHANGE, ANY, names.GENERATION_REQUEST, names.lane_queue(ANY)),
        "leases": _routed(
            names.REQUESTS_EXCHANGE, names.lease_queue(ANY), names.KEY_LEASE_REQUEST, names.lease_queue(ANY)
        ),
        "replies": {
            "address": None,
            "description": f"The request's reply_to: {names.DIRECT_REPLY_TO}, or a queue of the automation, "
            "replies.<automation>[.<name>], which it declares itself.",
            "messages": _references(answers),
            "bindings": {
                "amqp": {
                    "is": "queue",
                    "queue": {
                        "name": f"replies.{ANY}",
                        "durable": True,
                        "exclusive": False,
                        "autoDelete": False,
                        "vhost": VHOST,
                    },
                    "bindingVersion": BINDING_VERSION,
                }
            },
        },
        **{
            message_type: _routed(
                names.EVENTS_EXCHANGE,
                names.event_routing_key(message_type, ANY),
                message_type,
                names.ACCOUNTING_QUEUE if _is_for_accounting(message_type) else None,
            )
            for message_type in EVENTS
        },
    }


def _routed(exchange: str, routing_key: str, message_type: str, queue: str | None) -> Json:
    """A routing key of a topic exchange, and the queue that Keyway has bound to it."""
    kept = (
        "Whoever may read the exchange binds a queue." if queue is None else f"It goes to the queue {queue}."
    )
    return {
        "address": routing_key,
        "description": f"Routing key of the topic exchange `{exchange}`. {kept}",
        "parameters": PARAMETERS,
        "messages": _references([message_type]),
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": exchange,
                    "type": "topic",
                    "durable": True,
                    "autoDelete": False,
                    "vhost": VHOST,
                },
                "bindingVersion": BINDING_VERSION,
            }
        },
    }


def _operations(channels: Json) -> Json:
    return {
        "generate": _asked("requests", [names.GENERATION_CHUNK, names.GENERATION_RESULT]),
        "lease": _asked("leases", [names.KEY_LEASE, names.GENERATION_RESULT]),
        **{
            name: {
                "action": "receive" if name in WRITTEN_BY_AUTOMATIONS else "send",
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
            }
            for name in channels
            if name in EVENTS
        },
    }


def _asked(channel: str, answers: Iterable[str]) -> Json:
    """A question that Keyway receives, and answers to the request's `reply_to`."""
    message_type = {"requests": names.GENERATION_REQUEST, "leases": names.KEY_LEASE_REQUEST}[channel]
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message_type}"}],
        "bindings": {
            "amqp": {"deliveryMode": 2, "mandatory": True, "ack": True, "bindingVersion": BINDING_VERSION}
        },
        "reply": {
            "address": {"location": "$message.header#/reply_to"},
            "channel": {"$ref": "#/channels/replies"},
            "messages": [{"$ref": f"#/channels/replies/messages/{answer}"} for answer in answers],
        },
    }


def _message(message_type: str) -> Json:
    summary, properties = MESSAGES[message_type]
    message: Json = {
        "name": message_type,
        "title": message_type,
        "summary": summary,
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{MESSAGE_TYPES[message_type].__name__}"},
        "bindings": {"amqp": {"messageType": message_type, "bindingVersion": BINDING_VERSION}},
        "x-amqp-properties": {"type": message_type, **properties},
    }
    if properties is not EVENT_PROPERTIES:
        message["correlationId"] = {"location": "$message.header#/correlation_id"}
    if properties is REQUEST_PROPERTIES:
        headers = {name: {"type": "string"} for name in ("traceparent", "tracestate")}
        message["headers"] = {"type": "object", "properties": headers}
    return message


def _schemas() -> Json:
    modes = [(model, mode_of(message_type)) for message_type, model in MESSAGE_TYPES.items()]
    _, definitions = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    schemas: Json = definitions["$defs"]
    return schemas


def _references(message_types: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in message_types}


def _is_for_accounting(message_type: str) -> bool:
    return any(message_type.startswith(pattern.rstrip("#")) for pattern in names.ACCOUNTING_BINDINGS)


if __name__ == "__main__":
    export()

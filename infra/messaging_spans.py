"""What spans tell of messages (OpenTelemetry's semantic conventions for messaging, and for RabbitMQ)."""

from typing import TypeAlias

from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

from infra.deliveries import Delivery

Attributes: TypeAlias = dict[str, str | int | float | bool | list[str]]

RABBITMQ = "rabbitmq"


def consumed(message: Delivery, queue: str) -> Attributes:
    """Of a message that is processed: where it came from, and which it is.

    Args:
        message: that was delivered.
        queue: from which.
    """
    routing_key = message.routing_key or ""
    named = {
        messaging.MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY: routing_key,
        messaging.MESSAGING_MESSAGE_ID: message.message_id,
        messaging.MESSAGING_MESSAGE_CONVERSATION_ID: message.correlation_id,
    }
    return {
        messaging.MESSAGING_SYSTEM: RABBITMQ,
        messaging.MESSAGING_OPERATION_NAME: "process",
        messaging.MESSAGING_OPERATION_TYPE: "process",
        messaging.MESSAGING_DESTINATION_NAME: _destination(message.exchange or "", routing_key, queue),
        messaging.MESSAGING_MESSAGE_BODY_SIZE: len(message.body),
        **{name: value for name, value in named.items() if value},
    }


def published(exchange: str, routing_key: str, body: bytes) -> Attributes:
    """Of a message that is published: where to, and how large it is, in bytes."""
    return {
        messaging.MESSAGING_SYSTEM: RABBITMQ,
        messaging.MESSAGING_OPERATION_NAME: "publish",
        messaging.MESSAGING_OPERATION_TYPE: "send",
        messaging.MESSAGING_DESTINATION_NAME: _destination(exchange, routing_key),
        messaging.MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY: routing_key,
        messaging.MESSAGING_MESSAGE_BODY_SIZE: len(body),
    }


def _destination(*parts: str) -> str:
    """Exchange, routing key and queue, as far as there are, each once."""
    return ":".join(dict.fromkeys(filter(None, parts)))

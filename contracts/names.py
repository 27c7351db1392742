"""The names on the wire: exchanges, queues, routing keys, message types, permissions (wire.md, version 1)."""

import re

#: The ids that an automation may have; `.` is not among their characters, so that an id is one routing word.
AUTOMATION_ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"

REQUESTS_EXCHANGE = "requests"
EVENTS_EXCHANGE = "events"
DEAD_EXCHANGE = "dead"
DEAD_QUEUE = "dead"
#: A second queue of dead letters, in which workers find requests that the broker ended without an answer.
UNANSWERED_QUEUE = "dead.unanswered"
ACCOUNTING_QUEUE = "accounting"
#: How the names of all queues begin that automations own.
REPLY_QUEUE_PREFIX = "replies."

#: What the accounting queue is bound with.
ACCOUNTING_BINDINGS = ("usage.#", "heartbeat.#")
#: What workers bind a queue of their own with, to hear that keys, limits or automations changed.
RELOAD_BINDINGS = ("config.changed.#", "key.status_changed.#")

#: Where RabbitMQ's direct reply-to sends an answer.
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"

GENERATION_REQUEST = "generation.request.v1"
GENERATION_RESULT = "generation.result.v1"
GENERATION_CHUNK = "generation.chunk.v1"
USAGE_RECORDED = "usage.recorded.v1"
USAGE_REPORTED = "usage.reported.v1"
HEARTBEAT = "heartbeat.v1"
KEY_STATUS_CHANGED = "key.status_changed.v1"
BUDGET_CROSSED = "budget.crossed.v1"
CONFIG_CHANGED = "config.changed.v1"
KEY_LEASE_REQUEST = "key.lease.request.v1"
KEY_LEASE = "key.lease.v1"

#: Header of a dead letter that says why it is one; the broker's own reasons are in `x-death`.
REASON_HEADER = "x-keyway-reason"
#: When a worker put a dead letter there.
DIED_AT_HEADER = "x-keyway-died-at"
DEATH_HEADER = "x-death"
#: How often RabbitMQ has delivered a message of a quorum queue before.
DELIVERY_COUNT_HEADER = "x-delivery-count"
#: Milliseconds since the epoch when a message was published; the name is RabbitMQ's message interceptor's.
PUBLISHED_AT_HEADER = "timestamp_in_ms"
#: Header of a delivery whose properties can't be read as AMQP has them: why, and their bytes.
UNDECODABLE_HEADER = "x-keyway-undecodable"
#: Header of a dead letter without the headers that its message had: why they are left out.
LEFT_OUT_HEADER = "x-keyway-left-out"
#: W3C Trace Context; what came with a request goes with its answer and its events.
TRACE_HEADERS = ("traceparent", "tracestate")

_AUTOMATION_ID = re.compile(AUTOMATION_ID_PATTERN)
_REPLY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def is_automation_id(text: str) -> bool:
    """Whether `text` may be an automation's id."""
    return _AUTOMATION_ID.fullmatch(text) is not None


def lane_queue(automation_id: str) -> str:
    """The quorum queue that holds an automation's requests."""
    return f"requests.{automation_id}"


def lease_queue(automation_id: str) -> str:
    """The quorum queue that holds an automation's direct key requests."""
    return f"leases.{automation_id}"


def next_user(automation_id: str) -> str:
    """The second RabbitMQ user of an automation, whose password is its new token while its token rotates.

    It may do what the automation's own user may. A `.` is in no id, so that it is nobody else's.
    """
    return f"{automation_id}.next"


def reply_queue(automation_id: str, name: str) -> str:
    """The durable queue of an automation's results that are collected under a name.

    Raises:
        ValueError: the name is not a valid one.
    """
    if not _REPLY_NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't name a reply queue: expected 1 to 100 of a-z, A-Z, 0-9, _, . and -")
    return f"replies.{automation_id}.{name}"


def event_routing_key(message_type: str, automation_id: str) -> str:
    """The routing key of an event: its type without the version, then the automation.

    >>> event_routing_key(USAGE_RECORDED, "billing-bot")
    'usage.recorded.billing-bot'
    """
    return f"{message_type.rpartition('.')[0]}.{automation_id}"


def may_reply_to(automation_id: str, reply_to: str) -> bool:
    """Whether a worker may send an automation's answer to `reply_to`.

    Direct reply-to, or a queue named `replies.<automation>` or `replies.<automation>.<name>`: workers may
    write where the automation itself may not, so anything else is refused (wire.md, The broker is the door).
    """
    if reply_to.startswith(f"{DIRECT_REPLY_TO}."):
        return True
    return re.fullmatch(permissions(automation_id)["read"], reply_to) is not None


def permissions(automation_id: str) -> dict[str, str]:
    """RabbitMQ's `configure`, `write` and `read` patterns of an automation's user."""
    replies = rf"replies\.{re.escape(automation_id)}(\..+)?"
    return {
        "configure": f"^{replies}$",
        "write": f"^(requests|events|{replies})$",
        "read": f"^{replies}$",
    }


def topic_permissions(automation_id: str) -> dict[str, str]:
    """The routing keys that an automation's user may write with, as a pattern per topic exchange."""
    own = re.escape(automation_id)
    return {
        REQUESTS_EXCHANGE: rf"^(leases\.)?{own}$",
        EVENTS_EXCHANGE: rf"^(usage\.reported|heartbeat)\.{own}$",
    }

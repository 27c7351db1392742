"""Whether a delivery came to its queue by the way that RabbitMQ checks: identity rests on that.

RabbitMQ checks the routing key that is published to an exchange. It checks neither the further keys in the
headers `CC` and `BCC`, nor what an exchange or a queue of the publisher's own passes on to another exchange
(alternate exchange, binding of exchanges, dead-lettering). By each of these an automation could put messages
where only another may; all of them leave a trace in the delivery.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from contracts import names

FOREIGN_DEATH = "it was dead-lettered by a queue that is not the automation's"


def misrouted(
    *,
    exchange: str | None,
    routing_key: str | None,
    headers: Mapping[str, object] | None,
    expected: tuple[str, str],
    automation_id: str,
) -> str | None:
    """Say how a delivery went round RabbitMQ's checks, if it did.

    Args:
        exchange: that it was published to; the default exchange is open to Keyway and operators only.
        routing_key: that it was published with.
        headers: of the message.
        expected: the exchange and the routing key that its queue is meant for.
        automation_id: who may publish so.

    Returns:
        What is wrong with it; None where it came by the way that is checked.
    """
    if not exchange:
        return None
    if exchange != expected[0]:
        return f"it came by exchange {exchange!r}, expected {expected[0]!r}"
    if routing_key != expected[1]:
        return f"it came with routing key {routing_key!r}, expected {expected[1]!r}"
    return None if are_own(deaths(headers), automation_id) else FOREIGN_DEATH


def deaths(headers: Mapping[str, object] | None) -> list[dict[str, Any]]:
    """How a message was dead-lettered before, by RabbitMQ's `x-death`: the last time first."""
    found = (headers or {}).get(names.DEATH_HEADER)
    return [death for death in found if isinstance(death, dict)] if isinstance(found, list) else []


def are_own(found: Iterable[Mapping[str, Any]], automation_id: str) -> bool:
    """Whether no queue of another automation dead-lettered a message; all of theirs are `replies.…`."""
    return not any(
        isinstance(queue, str)
        and queue.startswith(names.REPLY_QUEUE_PREFIX)
        and not names.may_reply_to(automation_id, queue)
        for queue in (death.get("queue") for death in found)
    )

"""Whether a delivery came to its queue by the way that RabbitMQ checks: identity rests on that.

RabbitMQ checks the routing key that is published to an exchange. It checks neither the further keys in the
headers `CC` and `BCC`, nor what an exchange or a queue of the publisher's own passes on to another exchange
(alternate exchange, binding of exchanges, dead-lettering). By each of these an automation could put messages
where only another may; all of them leave a trace in the delivery.
"""

import re
from collections.abc import Mapping

from contracts import names


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
    deaths = (headers or {}).get(names.DEATH_HEADER)
    if not deaths:
        return None
    # The broker puts the last death first; others may have come with the message.
    last = deaths[0] if isinstance(deaths, list) else None
    queue = str(last.get("queue")) if isinstance(last, dict) else ""
    if re.fullmatch(names.permissions(automation_id)["read"], queue):
        return None
    return "it was dead-lettered by a queue that is not the automation's"

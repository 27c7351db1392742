"""Requests that the broker ended by itself: their time to live was over, or they were delivered too often.

RabbitMQ dead-letters them without a word to who asked. Workers find them in a queue of their own beside
`dead`, and answer them.
"""

from contracts import names
from contracts.errors import ErrorCode
from infra.deliveries import Delivery
from infra.origin import are_own, deaths
from workers.generation.result import Error

#: What RabbitMQ's reasons mean for who asked; its others (`rejected`) come from a worker that has answered.
ENDS = {
    "expired": Error(ErrorCode.DEADLINE_EXCEEDED, "the message expired before a call could start"),
    "delivery_limit": Error(ErrorCode.INTERNAL, "the request was delivered too often without an answer"),
}


def ended_by_broker(message: Delivery) -> tuple[str, Error] | None:
    """Whose request a dead letter is, and how it ended.

    Returns:
        The automation and the error that is its answer; None where it needs none, or is somebody else's.
    """
    found = deaths(message.headers)
    # The broker sets the routing key; a header may have come with the message.
    automation_id = message.routing_key or ""
    if not found or names.REASON_HEADER in message.headers or not names.is_automation_id(automation_id):
        return None
    last = found[0]
    lane = names.lane_queue(automation_id)
    keys = last.get("routing-keys")
    is_own = (
        isinstance(keys, list) and keys[:1] in ([automation_id], [lane]) and are_own(found, automation_id)
    )
    if not is_own or last.get("queue") != lane or last.get("exchange") not in {names.REQUESTS_EXCHANGE, ""}:
        return None
    end = ENDS.get(str(last.get("reason")))
    return None if end is None else (automation_id, end)

"""Requests that the broker ended by itself: their time to live was over, or they were delivered too often.

RabbitMQ dead-letters them without a word to who asked. Workers find them in a queue of their own beside
`dead`, and answer them.
"""

from contracts import names
from contracts.errors import ErrorCode
from infra.deliveries import Delivery
from workers.generation.result import Error

#: What RabbitMQ's reasons mean for who asked; its others (`rejected`) come from a worker that has answered.
ENDS = {
    "expired": Error(ErrorCode.DEADLINE_EXCEEDED, "the message expired before a call could start"),
    "delivery_limit": Error(ErrorCode.INTERNAL, "the request was delivered too often without an answer"),
}


def ended_by_broker(message: Delivery) -> tuple[str, Error] | None:
    """Whose request a dead letter is, and how it ended.

    Returns:
        The automation and the error that is its answer; None where it needs none.
    """
    headers = message.headers or {}
    deaths = headers.get(names.DEATH_HEADER)
    if names.REASON_HEADER in headers or not isinstance(deaths, list) or not deaths:
        return None
    last = deaths[0]
    if not isinstance(last, dict):
        return None
    # The broker sets the routing key; a header may have come with the message.
    automation_id = message.routing_key or ""
    end = ENDS.get(str(last.get("reason", "")))
    is_lanes = last.get("queue") == names.lane_queue(automation_id)
    return (automation_id, end) if is_lanes and end is not None else None

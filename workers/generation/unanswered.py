"""Requests that the broker ended by itself: their time to live was over, or they were delivered too often.

RabbitMQ dead-letters them without a word to who asked. Workers find them in a queue of their own beside
`dead`, and answer them.
"""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from contracts import names
from contracts.errors import ErrorCode
from contracts.queue_consumer import QueueConsumer
from infra.broker import UNANSWERED
from infra.consumed_deliveries import ConsumedDelivery, deliveries
from infra.consuming import Consuming
from infra.deliveries import DeliveriesInHand, Delivery, reject_if_it_fails, unless_closed
from infra.origin import are_own, deaths
from infra.provision import AUTOMATION_DEFAULTS
from workers.generation.automation import Automation
from workers.generation.result import Error

if TYPE_CHECKING:
    from infra.consumed_metrics import BatchMetrics

#: Dead letters that are looked at together.
PREFETCH = 50

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


class Handle(Protocol):
    """Ends a request as it is told, and acknowledges its delivery."""

    def __call__(self, message: Delivery, automation: Automation, *, ended: Error) -> Awaitable[None]:
        """Do it."""


class Unanswered:
    """Answers the requests that the broker ended without an answer.

    Args:
        consuming: consumes their queue.
        handle: ends and answers one.
        metrics: counts what is taken.
    """

    def __init__(self, consuming: Consuming, handle: Handle, metrics: "BatchMetrics | None" = None) -> None:
        self._consuming = consuming
        self._handle = handle
        self._metrics = metrics
        self._busy = DeliveriesInHand("unanswered")
        self._consumer: QueueConsumer | None = None

    async def start(self) -> None:
        """Answer from now on."""
        self._consumer = self._consuming.consume(
            "unanswered", UNANSWERED, deliveries(self._take), prefetch=PREFETCH, with_topology=True
        )
        await self._consumer.tried.wait()

    async def stop(self, grace_s: float) -> None:
        """Take no more, and give those under way so long to finish, in seconds."""
        if self._consumer is not None:
            await self._consuming.end(self._consumer)
        await self._busy.finish(grace_s)

    async def _take(self, message: ConsumedDelivery) -> None:
        self._busy.do(reject_if_it_fails(message, message.routing_key or "", self._answer(message)))

    async def _answer(self, message: ConsumedDelivery) -> None:
        metrics = self._metrics
        received = (
            None
            if metrics is None
            else metrics.begin(message.exchange or "", message.routing_key or "", len(message.body))
        )
        try:
            found = ended_by_broker(message)
            if found is None:
                await unless_closed(message.ack())
                return
            automation_id, end = found
            automation = Automation.from_document({"_id": automation_id, **AUTOMATION_DEFAULTS})
            await self._handle(message, automation, ended=end)
        finally:
            if metrics is not None and received is not None:
                metrics.end([received])

"""Takes the deliveries of accounting's queue in batches, and acknowledges each batch at once.

It reads the AMQP library's own messages: an object and a task of each layer above for each message cost more
than the ledger does (docs/decisions/0028).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiormq.abc import AbstractChannel, DeliveredMessage

from contracts.consumer_channels import Take
from contracts.queue_consumer import QueueConsumer
from infra.broker import ACCOUNTING
from infra.consuming import Consuming
from infra.deliveries import unless_closed
from infra.group_commit import Gathering
from workers.accounting.reading import Event, read
from workers.accounting.settled import SettledTags

if TYPE_CHECKING:
    from infra.consumed_metrics import BatchMetrics, Received

log = structlog.get_logger()

#: Deliveries that RabbitMQ sends ahead of what is acknowledged: some are read while others are written.
PREFETCH = 10_000
#: The most that is written in one transaction.
MAX_BATCH = 4000
#: How long a batch waits for more while many come, in seconds: a transaction costs as much as 20 events.
GATHER_S = 0.1
#: How long the connection may take an acknowledgement, in seconds.
ACKNOWLEDGE_TIMEOUT_S = 10.0


@dataclass(eq=False, slots=True)
class Consumer:
    """A channel and what came on it; what is not acknowledged when it ends comes again on another."""

    channel: AbstractChannel
    waiting: "list[Delivery]" = field(default_factory=list)
    settled: SettledTags = field(default_factory=SettledTags)
    #: Acknowledgements go out in their order.
    acknowledging: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Delivery:
    """A message that was delivered, and what it tells of."""

    consumer: Consumer
    tag: int
    message: DeliveredMessage
    event: Event
    #: As it is counted, where anything is.
    received: "Received | None" = None


class Intake:
    """Consumes the queue.

    Args:
        consuming: keeps it consumed.
        metrics: counts deliveries.
    """

    def __init__(self, consuming: Consuming, metrics: "BatchMetrics | None" = None) -> None:
        self._consuming = consuming
        self._metrics = metrics
        self._consumer: Consumer | None = None
        self._queue: QueueConsumer | None = None
        self._is_stopped = False
        self._have_come = asyncio.Event()
        self._gathering = Gathering(MAX_BATCH, GATHER_S)
        self._taken = 0

    async def start(self) -> None:
        """Consume from now on; where RabbitMQ refuses, as soon as it does not."""
        self._queue = self._consuming.consume(
            "accounting", ACCOUNTING, self._receive, prefetch=PREFETCH, with_topology=True
        )
        await self._queue.tried.wait()

    async def take(self) -> Sequence[Delivery]:
        """Wait for deliveries and take those that are there, in their order; while many come, wait for more.

        Returns:
            Up to `MAX_BATCH` deliveries of one consumer; none where it was stopped, and nothing is left.
        """
        while True:
            if not self._waiting and not self._is_stopped:
                self._have_come.clear()
                await self._have_come.wait()
            if not self._is_stopped:
                await self._gathering.more(len(self._waiting), self._taken)
            waiting = self._waiting
            taken = waiting[:MAX_BATCH]
            del waiting[:MAX_BATCH]
            self._taken = len(taken)
            if taken or self._is_stopped:
                return taken

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries of one consumer that are booked or dead-lettered, with those before them.

        Where one before them is not settled yet, they are acknowledged with it.
        """
        if not deliveries:
            return
        self.let_go(deliveries)
        consumer = deliveries[0].consumer
        async with consumer.acknowledging:
            up_to = consumer.settled.settle([delivery.tag for delivery in deliveries])
            if up_to is None:
                return
            try:
                async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_S):
                    await unless_closed(consumer.channel.basic_ack(up_to, multiple=True, wait=False))
            except TimeoutError:  # the connection takes nothing more; if it ends, the events come again
                log.warning("acknowledgement_delayed", up_to=up_to)

    def let_go(self, deliveries: Sequence[Delivery]) -> None:
        """Note that deliveries are no longer in hand: they are settled, or come again."""
        if self._metrics is not None:
            self._metrics.end([delivery.received for delivery in deliveries if delivery.received is not None])

    async def stop(self) -> None:
        """Have nothing more delivered; what was is left to be taken."""
        if self._queue is not None:
            await self._consuming.end(self._queue)
        self._is_stopped = True
        self._have_come.set()
        self._gathering.hurry()

    @property
    def _waiting(self) -> list[Delivery]:
        return [] if self._consumer is None else self._consumer.waiting

    def _receive(self, channel: AbstractChannel) -> Take:
        """Begin with a channel; what waits of another one comes again, or was of a queue that is gone."""
        if self._consumer is None or self._consumer.channel is not channel:
            consumer = self._consumer = Consumer(channel)
            channel.closing.add_done_callback(lambda _: self._give_up(consumer))
        return partial(self._deliver, self._consumer)

    def _give_up(self, consumer: Consumer) -> None:
        """Leave a channel that has ended; what waits of it comes again."""
        consumer.ended.set()
        if consumer.waiting:
            log.info("deliveries_gone", waiting=len(consumer.waiting))
        self.let_go(consumer.waiting)
        consumer.waiting.clear()

    async def _deliver(self, consumer: Consumer, message: DeliveredMessage) -> None:
        """Note a delivery; it is read while those before it are written."""
        consumer.waiting.append(self._came(consumer, message))
        self._have_come.set()
        self._gathering.came(len(consumer.waiting))

    def _came(self, consumer: Consumer, message: DeliveredMessage) -> Delivery:
        delivery = Delivery(consumer, message.delivery_tag or 0, message, read(message))
        if self._metrics is not None:
            delivery.received = self._metrics.begin(
                message.exchange or "", message.routing_key or "", len(message.body)
            )
        return delivery

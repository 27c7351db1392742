"""Takes the deliveries of accounting's queue in batches, and acknowledges each batch at once.

It stands on the AMQP library's channel itself: an object and a task of each layer above for each message cost
more than the ledger does (docs/decisions/0028).
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aio_pika.abc import AbstractRobustConnection
from aiormq.abc import AbstractChannel, DeliveredMessage

from contracts import names
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
#: Seconds until the next try to consume where RabbitMQ refuses or is away.
RETRY_S = 2.0
#: How long RabbitMQ may take for each step of that, in seconds.
STEP_TIMEOUT_S = 10.0


@dataclass(eq=False, slots=True)
class Consumer:
    """A channel with its consumer; what it has not acknowledged when it ends comes again by another."""

    channel: AbstractChannel
    tag: str = ""
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
    """Consumes the queue, again and again where the channel or the connection is lost."""

    def __init__(self, connection: AbstractRobustConnection, metrics: "BatchMetrics | None" = None) -> None:
        """Take the connection, and what counts deliveries."""
        self._connection = connection
        self._metrics = metrics
        self._consumer: Consumer | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._have_come = asyncio.Event()
        self._gathering = Gathering(MAX_BATCH, GATHER_S)
        self._taken = 0

    async def start(self) -> None:
        """Consume from now on.

        Raises:
            AMQPError: RabbitMQ refuses.
        """
        await self._consume()
        self._keeper = asyncio.create_task(self._keep_consuming())

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
                async with asyncio.timeout(STEP_TIMEOUT_S):
                    await unless_closed(consumer.channel.basic_ack(up_to, multiple=True, wait=False))
            except TimeoutError:  # the connection takes nothing more
                consumer.ended.set()

    def let_go(self, deliveries: Sequence[Delivery]) -> None:
        """Note that deliveries are no longer in hand: they are settled, or come again."""
        if self._metrics is not None:
            self._metrics.end([delivery.received for delivery in deliveries if delivery.received is not None])

    async def stop(self) -> None:
        """Have nothing more delivered; what was is left to be taken."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._consumer is not None:
            with suppress(TimeoutError):
                await unless_closed(self._cancel(self._consumer))
        self._is_stopped = True
        self._have_come.set()
        self._gathering.hurry()

    @property
    def _waiting(self) -> list[Delivery]:
        return [] if self._consumer is None else self._consumer.waiting

    async def _keep_consuming(self) -> None:
        while True:
            try:
                if self._consumer is not None:
                    await self._consumer.ended.wait()
                    await self._give_up(self._consumer)
                await self._consume()
            except (Exception, asyncio.CancelledError) as error:
                # What the library was doing when the connection closed it cancels.
                if _is_cancelled():
                    raise
                log.warning("consuming_delayed", error=type(error).__name__, retry_in_s=RETRY_S)
                await asyncio.sleep(RETRY_S)

    async def _give_up(self, consumer: Consumer) -> None:
        """Leave a consumer that has ended; what waits of it comes again."""
        log.info("consumer_gone", queue=names.ACCOUNTING_QUEUE, waiting=len(consumer.waiting))
        self._consumer = None
        self.let_go(consumer.waiting)
        with suppress(TimeoutError):
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await unless_closed(consumer.channel.close())

    async def _consume(self) -> None:
        await self._connection.ready()
        transport = self._connection.transport
        if transport is None:
            raise ConnectionError("the connection was just lost")
        async with asyncio.timeout(STEP_TIMEOUT_S):
            channel = await transport.connection.channel(publisher_confirms=False)
        consumer = Consumer(channel)
        channel.closing.add_done_callback(lambda _: consumer.ended.set())
        channel.on_consumer_cancel_callbacks.add(lambda _: consumer.ended.set())
        try:
            await channel.basic_qos(prefetch_count=PREFETCH, timeout=STEP_TIMEOUT_S)
            self._consumer = consumer
            consuming = await channel.basic_consume(
                names.ACCOUNTING_QUEUE, partial(self._deliver, consumer), timeout=STEP_TIMEOUT_S
            )
        except BaseException:
            self._consumer = None
            await channel.close()
            raise
        consumer.tag = consuming.consumer_tag or ""

    async def _cancel(self, consumer: Consumer) -> None:
        await consumer.channel.basic_cancel(consumer.tag, timeout=STEP_TIMEOUT_S)

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


def _is_cancelled() -> bool:
    """Whether somebody cancels this very task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

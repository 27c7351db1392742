"""A queue for accounting's intake in unit tests: it delivers what it is given, and notes acknowledgements."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast
from unittest.mock import AsyncMock

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelInvalidStateError
from pamqp import commands
from pamqp.header import ContentHeader

from contracts import names
from contracts.consumer_channels import ConsumerChannels, Receive
from contracts.queue_consumer import QueueConsumer
from infra.background_tasks import BackgroundTasks
from infra.consuming import Consuming
from infra.queue_declaration import DeclaredQueue


def delivered(
    body: bytes, event_type: str = names.USAGE_RECORDED, *, routing_key: str | None = None, tag: int = 1
) -> DeliveredMessage:
    """A message of `billing-bot` as it comes from accounting's queue."""
    key = names.event_routing_key(event_type, "billing-bot") if routing_key is None else routing_key
    properties = commands.Basic.Properties(message_type=event_type, headers={})
    return DeliveredMessage(
        delivery=commands.Basic.Deliver(
            "consumer", tag, redelivered=False, exchange="events", routing_key=key
        ),
        header=ContentHeader(body_size=len(body), properties=properties),
        body=body,
        channel=cast("AbstractChannel", None),
    )


@dataclass
class FakeChannel:
    """One channel with its consumer."""

    acknowledged: list[int] = field(default_factory=list)
    on_consumer_cancel_callbacks: set[Callable[[object], object]] = field(default_factory=set)
    is_closed: bool = False

    def __post_init__(self) -> None:
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.consuming = asyncio.Event()
        self._deliver: Callable[[DeliveredMessage], Awaitable[None]] | None = None
        self._delivered = 0

    async def basic_qos(self, **_: object) -> None:
        """Take the prefetch."""

    async def basic_consume(
        self,
        _queue: str,
        deliver: Callable[[DeliveredMessage], Awaitable[None]],
        *,
        consumer_tag: str,
        **_: object,
    ) -> None:
        """Start the consumer."""
        self._deliver = deliver
        self.tag = consumer_tag
        self.consuming.set()

    async def basic_cancel(self, _tag: str, **_: object) -> None:
        """End the consumer."""

    async def basic_ack(self, tag: int, *, multiple: bool, **_: object) -> None:
        """Note an acknowledgement."""
        if self.is_closed:
            raise ChannelInvalidStateError
        assert multiple
        self.acknowledged.append(tag)

    def cancel_consumer(self) -> None:
        """End the consumer as the broker does when the queue is deleted."""
        self.consuming.clear()
        for tell in self.on_consumer_cancel_callbacks:
            tell(SimpleNamespace(consumer_tag=self.tag))

    async def close(self, *_: object) -> None:
        """End the channel."""
        self.is_closed = True
        if not self.closing.done():
            self.closing.set_result(None)

    async def deliver(self, *bodies: bytes, event_type: str = names.USAGE_RECORDED) -> None:
        """Deliver messages."""
        assert self._deliver is not None
        for body in bodies:
            self._delivered += 1
            await self._deliver(delivered(body, event_type, tag=self._delivered))


class FakeConsuming:
    """Keeps the queue consumed on channels that it opens and remembers."""

    def __init__(self) -> None:
        self.channels: list[FakeChannel] = []
        self.opened = asyncio.Event()
        self._tasks = BackgroundTasks("test")

    def consume(
        self, _kind: str, queue: DeclaredQueue, receive: Receive, *, prefetch: int, **_: object
    ) -> QueueConsumer:
        """Consume the queue, which is there."""
        consumer = QueueConsumer(
            queue.name,
            channels=ConsumerChannels(self._open),
            declare=AsyncMock(),
            receive=receive,
            prefetch=prefetch,
        )
        self._tasks.keep(queue.name, consumer.run)
        return consumer

    async def end(self, consumer: QueueConsumer) -> None:
        """Consume it no longer."""
        await consumer.end()
        await self._tasks.close()

    async def _open(self) -> AbstractChannel:
        self.channels.append(FakeChannel())
        self.opened.set()
        return cast("AbstractChannel", self.channels[-1])

    @property
    def real(self) -> Consuming:
        """As what the intake takes it for."""
        return cast("Consuming", self)

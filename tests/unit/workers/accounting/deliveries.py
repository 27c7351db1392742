"""A queue for accounting's intake in unit tests: it delivers what it is given, and notes acknowledgements."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from aio_pika.abc import AbstractRobustConnection
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelInvalidStateError
from pamqp import commands
from pamqp.header import ContentHeader

from contracts import names


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
        self, _queue: str, deliver: Callable[[DeliveredMessage], Awaitable[None]], **_: object
    ) -> Any:
        """Start the consumer."""
        self._deliver = deliver
        self.consuming.set()
        return SimpleNamespace(consumer_tag="consumer")

    async def basic_cancel(self, _tag: str, **_: object) -> None:
        """End the consumer."""

    async def basic_ack(self, tag: int, *, multiple: bool, **_: object) -> None:
        """Note an acknowledgement."""
        if self.is_closed:
            raise ChannelInvalidStateError
        assert multiple
        self.acknowledged.append(tag)

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


class FakeConnection:
    """A connection that opens channels, and remembers them."""

    def __init__(self) -> None:
        self.channels: list[FakeChannel] = []
        self.transport = SimpleNamespace(connection=SimpleNamespace(channel=self._channel))
        self.opened = asyncio.Event()

    async def ready(self) -> None:
        """Be there at once."""

    async def _channel(self, **_: object) -> FakeChannel:
        self.channels.append(FakeChannel())
        self.opened.set()
        return self.channels[-1]

    @property
    def robust(self) -> AbstractRobustConnection:
        """As what the intake takes it for."""
        return cast("AbstractRobustConnection", self)

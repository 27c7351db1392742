"""Channels that consumers share: one for each prefetch, opened again when it is needed and gone.

RabbitMQ counts `basic.qos` for each consumer by itself, so that a thousand consumers with the same prefetch
need one channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from aiormq.abc import AbstractChannel, DeliveredMessage

from contracts.connection import BROKER_TIMEOUT_S, ChannelLostError, close, on_channel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pamqp.commands import Basic

Open: TypeAlias = Callable[[], Awaitable[AbstractChannel]]
#: Called with each message.
Take: TypeAlias = Callable[[DeliveredMessage], Coroutine[Any, Any, None]]
#: Called with the channel when a consumer is started; returns what takes its messages.
Receive: TypeAlias = Callable[[AbstractChannel], Take]


class ConsumerCancelledError(Exception):
    """The broker ended a consumer: its queue was deleted, or moved to another node."""


class ConsumerChannel:
    """A channel that tells its consumers when they end.

    Attributes:
        channel: aiormq's; open until its connection is lost, or the broker closes it.
    """

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self._is_given_up = False
        self._ended: dict[str, Callable[[Exception], None]] = {}
        self._starting = asyncio.Lock()
        channel.closing.add_done_callback(self._on_closed)
        channel.on_consumer_cancel_callbacks.add(self._on_cancelled)

    @property
    def is_lost(self) -> bool:
        """Whether it is closed, or the broker did not answer on it."""
        return self._is_given_up or self.channel.is_closed

    async def consume(
        self, queue: str, tag: str, take: Take, ended: Callable[[Exception], None], *, no_ack: bool
    ) -> None:
        """Start a consumer.

        One at a time: an error that the broker gives as its reason is about this queue and no other.

        Args:
            queue: its name.
            tag: of the consumer; no other has it.
            take: called with each message.
            ended: called once when the consumer ends and `cancel` was not called, with the reason.
            no_ack: whether messages count as acknowledged when they are sent.

        Raises:
            ChannelLostError: the broker refused and closed the channel, or did not answer, or the channel was
                closed before.
        """
        async with self._starting:
            if self.is_lost:
                raise ChannelLostError
            self._ended[tag] = ended
            try:
                await on_channel(
                    self.channel.basic_consume(
                        queue, take, consumer_tag=tag, no_ack=no_ack, timeout=BROKER_TIMEOUT_S
                    )
                )
            except BaseException as error:
                self._ended.pop(tag, None)
                if isinstance(error.__cause__, TimeoutError):
                    # aiormq sends nothing more on it, and does not count it as closed.
                    self._lose(ChannelLostError("another consumer was not answered"))
                raise

    async def cancel(self, tag: str) -> None:
        """Stop a consumer; what was delivered may still be acknowledged.

        Raises:
            ChannelLostError: the channel is gone, and the consumer with it.
        """
        await on_channel(self.channel.basic_cancel(tag))
        self._ended.pop(tag, None)

    def _on_cancelled(self, frame: Basic.Cancel) -> None:
        if ended := self._ended.pop(frame.consumer_tag or "", None):
            ended(ConsumerCancelledError("the broker cancelled the consumer"))

    def _on_closed(self, closing: asyncio.Future[None]) -> None:
        lost = ChannelLostError("the channel was closed")
        lost.__cause__ = None if closing.cancelled() else closing.exception()
        self._lose(lost)

    def _lose(self, lost: ChannelLostError) -> None:
        self._is_given_up = True
        ended, self._ended = self._ended, {}
        for tell in ended.values():
            tell(lost)


class ConsumerChannels:
    """The channels of consumers that may share some.

    Args:
        open_channel: opens one; it waits for the connection.
    """

    def __init__(self, open_channel: Open) -> None:
        self._open = open_channel
        self._by_prefetch: dict[int, ConsumerChannel] = {}
        self._opening = asyncio.Lock()

    def __iter__(self) -> Iterator[AbstractChannel]:
        """Those that are open."""
        channels = (consuming.channel for consuming in self._by_prefetch.values())
        return (channel for channel in channels if not channel.is_closed)

    async def get(self, prefetch: int) -> ConsumerChannel:
        """The open channel whose consumers get so many messages ahead of their acknowledgements.

        Raises:
            ChannelLostError: the broker refused it, or the connection was lost.
        """
        async with self._opening:
            found = self._by_prefetch.get(prefetch)
            if found is None or found.is_lost:
                channel = await self._open()
                try:
                    await on_channel(channel.basic_qos(prefetch_count=prefetch, timeout=BROKER_TIMEOUT_S))
                except BaseException:
                    await asyncio.shield(close(channel))
                    raise
                found = self._by_prefetch[prefetch] = ConsumerChannel(channel)
            return found

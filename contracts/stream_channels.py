"""Channels for streams: one each, used again after a stream that ended in order, closed after any other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from contracts.reply_channel import ReplyChannel

if TYPE_CHECKING:
    from contracts.connection import BrokerConnection

#: Streams at once; RabbitMQ allows a connection 2,047 channels by default. Further ones wait.
MAX_STREAMS = 1000
#: Channels that are kept open for the next streams.
MAX_IDLE = 64


class StreamChannels:
    """Lends channels to streams."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self._slots = asyncio.Semaphore(MAX_STREAMS)
        self._idle: list[ReplyChannel] = []
        self._closing: set[asyncio.Task[None]] = set()

    async def acquire(self) -> ReplyChannel:
        """A channel for one stream, once there is a slot.

        Raises:
            ClientClosedError: the client is closed.
        """
        await self._slots.acquire()
        try:
            while self._idle:
                if not (channel := self._idle.pop()).is_lost:
                    return channel
            return await ReplyChannel.open(self._connection)
        except BaseException:
            self._slots.release()
            raise

    def release(self, channel: ReplyChannel) -> None:
        """Take back a channel whose stream has ended in order."""
        if channel.is_lost or len(self._idle) >= MAX_IDLE:
            self.discard(channel)
        else:
            self._idle.append(channel)
            self._slots.release()

    def discard(self, channel: ReplyChannel) -> asyncio.Task[None]:
        """Close the channel of a stream that nobody takes any more, by which its worker hears of it."""
        closing = asyncio.create_task(self._close(channel))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return closing

    async def _close(self, channel: ReplyChannel) -> None:
        try:
            await channel.close()
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Wait for the channels that are being closed."""
        await asyncio.gather(*self._closing, return_exceptions=True)

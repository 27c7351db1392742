"""Channels that are lent to one user at a time: to a stream, or to a request that is large.

A channel is used again after what ended in order, and closed after anything else.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from contracts.background import Background
from contracts.reply_channel import ReplyChannel

if TYPE_CHECKING:
    from contracts.connection import BrokerConnection

#: Channels lent at once; RabbitMQ allows a connection 2,047 channels by default. Who asks for more waits.
MOST_LENT = 1000
#: Channels that are kept open for the next user.
MAX_IDLE = 64


class OwnChannels:
    """Lends channels."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self._slots = asyncio.Semaphore(MOST_LENT)
        self._idle: list[ReplyChannel] = []
        self._closing = Background()

    async def acquire(self) -> ReplyChannel:
        """A channel for one user, once there is a slot.

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
        """Take back a channel on which nothing is under way any more."""
        if channel.is_lost or len(self._idle) >= MAX_IDLE:
            self.discard(channel)
        else:
            self._idle.append(channel)
            self._slots.release()

    def discard(self, channel: ReplyChannel) -> asyncio.Task[None]:
        """Close a channel whose answer nobody takes any more, by which its worker hears of it."""
        return self._closing.start("closing a channel", self._close(channel))

    async def _close(self, channel: ReplyChannel) -> None:
        try:
            await channel.close()
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Wait for the channels that are being closed."""
        await self._closing.drain()

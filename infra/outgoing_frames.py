"""Frames on their way to RabbitMQ: those of one turn of the event loop go out in one write.

aiormq writes each message and each acknowledgement by itself; a write costs a system call.
"""

import asyncio
from typing import cast
from weakref import WeakKeyDictionary

from aiormq import Channel, Connection
from aiormq.abc import ChannelFrame
from aiormq.exceptions import ChannelInvalidStateError

_by_connection: "WeakKeyDictionary[Connection, OutgoingFrames]" = WeakKeyDictionary()


class OutgoingFrames:
    """What is to be written on one connection, in the order in which it comes."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection; `of` finds that of a channel."""
        self._queue = connection.write_queue
        self._waiting: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None
        connection.closing.add_done_callback(self._stop)

    @classmethod
    def of(cls, channel: Channel) -> "OutgoingFrames":
        """The frames of a channel's connection, which all its channels share."""
        connection = cast("Connection", channel.connection)
        found = _by_connection.get(connection)
        if found is None:
            found = _by_connection[connection] = cls(connection)
        return found

    def send(self, channel: Channel, frames: bytes) -> None:
        """Have a channel's encoded frames written soon; they are lost with the connection.

        Raises:
            ChannelInvalidStateError: the channel is closed.
        """
        if channel.is_closed:
            raise ChannelInvalidStateError(f"channel {channel.number} is closed")
        self._waiting.append(frames)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def flush(self) -> None:
        """Wait until all is written that was sent so far, or the connection is gone."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        try:
            while self._waiting:
                payload = b"".join(self._waiting)
                self._waiting.clear()
                written = asyncio.get_running_loop().create_future()
                await self._queue.put(ChannelFrame(payload, should_close=False, drain_future=written))
                await written
        finally:
            self._writing = None

    def _stop(self, _: "asyncio.Future[None]") -> None:
        if self._writing is not None:
            self._writing.cancel()

"""Frames on their way to RabbitMQ: those of one turn of the event loop go out in one write.

aiormq writes each message and each acknowledgement by itself; a write costs a system call. A large message is
written in portions, between which the frames of others go out.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import cast
from weakref import WeakKeyDictionary

from aiormq import Channel, Connection
from aiormq.abc import ChannelFrame
from aiormq.exceptions import ChannelInvalidStateError

from infra.background_tasks import BackgroundTasks

_by_connection: "WeakKeyDictionary[Connection, OutgoingFrames]" = WeakKeyDictionary()


class OutgoingFrames:
    """What is to be written on one connection, in the order in which it comes."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection; `of` finds that of a channel."""
        self._queue = connection.write_queue
        self._waiting: list[tuple[Channel, bytes]] = []
        self._portions: deque[tuple[Channel, bytes]] = deque()
        self._tasks = BackgroundTasks("frames")
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
        """Have a channel's encoded frames written soon; they are lost with the channel or the connection.

        Raises:
            ChannelInvalidStateError: the channel is closed.
        """
        _require_open(channel)
        self._waiting.append((channel, frames))
        self._start()

    def send_at_leisure(self, channel: Channel, frames: Iterable[bytes]) -> None:
        """Have encoded frames written, one with each write: those of other channels do not wait for all.

        Nothing else may be sent on the channel until they are written.

        Raises:
            ChannelInvalidStateError: the channel is closed.
        """
        _require_open(channel)
        self._portions.extend((channel, portion) for portion in frames)
        self._start()

    async def flush(self) -> None:
        """Wait until all is written that was sent so far, or the connection is gone."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    def _start(self) -> None:
        if self._writing is None:
            self._writing = self._tasks.start("write", self._write())

    async def _write(self) -> None:
        try:
            while self._waiting or self._portions:
                if self._portions:
                    self._waiting.append(self._portions.popleft())
                # A frame after the answer to RabbitMQ's Channel.Close would cost the connection.
                payload = b"".join([frames for channel, frames in self._waiting if _is_open(channel)])
                self._waiting.clear()
                written = asyncio.get_running_loop().create_future()
                await self._queue.put(ChannelFrame(payload, should_close=False, drain_future=written))
                await written
        finally:
            self._writing = None

    def _stop(self, _: "asyncio.Future[None]") -> None:
        if self._writing is not None:
            self._writing.cancel()


def _require_open(channel: Channel) -> None:
    if not _is_open(channel):
        raise ChannelInvalidStateError(f"channel {channel.number} is closed")


def _is_open(channel: Channel) -> bool:
    # aiormq answers RabbitMQ's Channel.Close before the channel counts as closed.
    return not channel.is_closed and channel._close_exception is None  # noqa: SLF001  # nothing else tells

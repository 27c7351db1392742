"""Frames of one turn of the event loop are one write, in their order."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
from aiormq.exceptions import ChannelInvalidStateError

from infra.outgoing_frames import OutgoingFrames

if TYPE_CHECKING:
    from aiormq import Channel
    from aiormq.abc import ChannelFrame


@dataclass(eq=False)
class Connection:
    """What a connection is to what writes on it; the test takes the place of its writer."""

    write_queue: "asyncio.Queue[ChannelFrame]" = field(default_factory=lambda: asyncio.Queue(1))
    closing: "asyncio.Future[None]" = field(default_factory=asyncio.Future)


@dataclass
class OneChannel:
    connection: Connection
    number: int = 1
    is_closed: bool = False
    _close_exception: BaseException | None = None


def channel_of(connection: Connection) -> "Channel":
    return cast("Channel", OneChannel(connection))


async def test_what_is_sent_at_once_on_all_channels_is_one_write_and_the_next_waits_for_it() -> None:
    connection = Connection()
    one, other = channel_of(connection), channel_of(connection)
    outgoing = OutgoingFrames.of(one)
    assert OutgoingFrames.of(other) is outgoing
    outgoing.send(one, b"a")
    outgoing.send(other, b"b")
    first = await connection.write_queue.get()
    outgoing.send(one, b"c")
    outgoing.send(other, b"d")
    await asyncio.sleep(0)
    assert (first.payload, connection.write_queue.empty()) == (b"ab", True)
    first.drain()
    second = await connection.write_queue.get()
    flushed = asyncio.create_task(outgoing.flush())
    await asyncio.sleep(0)
    assert (second.payload, flushed.done()) == (b"cd", False)
    second.drain()
    await flushed


async def test_a_connection_that_closes_ends_the_wait_for_its_writes() -> None:
    connection = Connection()
    channel = channel_of(connection)
    outgoing = OutgoingFrames.of(channel)
    outgoing.send(channel, b"lost")
    flushed = asyncio.create_task(outgoing.flush())
    await connection.write_queue.get()
    connection.closing.set_result(None)
    await flushed


async def test_nothing_is_sent_on_a_closed_channel() -> None:
    closed = cast("Channel", OneChannel(Connection(), is_closed=True))
    with pytest.raises(ChannelInvalidStateError, match="channel 1 is closed"):
        OutgoingFrames.of(closed).send(closed, b"a")


async def test_what_waits_is_not_written_once_rabbitmq_has_closed_its_channel() -> None:
    connection = Connection()
    closing, other = channel_of(connection), channel_of(connection)
    outgoing = OutgoingFrames.of(closing)
    outgoing.send(other, b"first")
    first = await connection.write_queue.get()
    outgoing.send(closing, b"a")
    outgoing.send(other, b"b")
    outgoing.send_at_leisure(closing, [b"c", b"d"])
    closing._close_exception = ConnectionError()
    first.drain()
    written = b""
    while b"b" not in written or not connection.write_queue.empty():
        frame = await connection.write_queue.get()
        written += frame.payload
        frame.drain()
        await asyncio.sleep(0)
    assert written == b"b"
    with pytest.raises(ChannelInvalidStateError):
        outgoing.send(closing, b"e")

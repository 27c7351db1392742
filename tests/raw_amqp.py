"""AMQP 0-9-1 by hand: a publisher that sends whatever bytes it is told to, without a library that objects."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

METHOD, HEADER, BODY = 1, 2, 3
FRAME_END = b"\xce"
#: Room that a frame's own 8 bytes leave in the largest frame that RabbitMQ takes by default.
LARGEST_PAYLOAD = 131_072 - 8

START, START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK = (10, 10), (10, 11), (10, 30), (10, 31), (10, 40), (10, 41)
CLOSE, CLOSE_OK, CHANNEL_OPEN, CHANNEL_OPEN_OK = (10, 50), (10, 51), (20, 10), (20, 11)
CHANNEL_CLOSE, PUBLISH, ACK, NACK = (20, 40), (60, 40), (60, 80), (60, 120)
SELECT, SELECT_OK = (85, 10), (85, 11)

#: The flag of each property, in the order in which they come.
FLAGS = {
    "content_type": 1 << 15,
    "content_encoding": 1 << 14,
    "headers": 1 << 13,
    "delivery_mode": 1 << 12,
    "priority": 1 << 11,
    "correlation_id": 1 << 10,
    "reply_to": 1 << 9,
    "expiration": 1 << 8,
    "message_id": 1 << 7,
    "timestamp": 1 << 6,
    "type": 1 << 5,
    "user_id": 1 << 4,
    "app_id": 1 << 3,
    "cluster_id": 1 << 2,
}


class RefusedError(Exception):
    """RabbitMQ closed the connection or the channel, and what it said."""


def short(raw: bytes) -> bytes:
    """A short string."""
    return bytes([len(raw)]) + raw


def long(raw: bytes) -> bytes:
    """A long string, a table or an array, by the bytes in it."""
    return struct.pack(">I", len(raw)) + raw


def entry(name: bytes, value: bytes) -> bytes:
    """An entry of a table; the value begins with its type."""
    return short(name) + value


def text(raw: bytes) -> bytes:
    """A long string as a table's value."""
    return b"S" + long(raw)


@dataclass(frozen=True)
class Raw:
    """The properties of a message: their flags and their bytes."""

    flags: int = 0
    properties: bytes = b""

    @classmethod
    def of(cls, **properties: bytes) -> "Raw":
        """Properties by name, each as it is encoded."""
        named = sorted(properties, key=lambda name: -FLAGS[name])
        return cls(sum(FLAGS[name] for name in named), b"".join(properties[name] for name in named))


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + FRAME_END


def method(channel: int, which: tuple[int, int], arguments: bytes = b"") -> bytes:
    return frame(METHOD, channel, struct.pack(">HH", *which) + arguments)


def content(exchange: str, routing_key: bytes, raw: Raw, body: bytes, size: int | None = None) -> bytes:
    """The frames of one message, on channel 1; `size` is what the header says of the body's."""
    said = len(body) if size is None else size
    frames = [
        method(1, PUBLISH, b"\0\0" + short(exchange.encode()) + short(routing_key) + b"\0"),
        frame(HEADER, 1, struct.pack(">HHQH", 60, 0, said, raw.flags) + raw.properties),
    ]
    frames += [frame(BODY, 1, body[at : at + LARGEST_PAYLOAD]) for at in range(0, len(body), LARGEST_PAYLOAD)]
    return b"".join(frames)


@dataclass
class RawPublisher:
    """One connection with one channel, in confirm mode."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    published: int = 0
    #: What the queues had no room for.
    refused: int = 0
    #: The numbers of those that are not confirmed.
    waiting: set[int] = field(default_factory=set)

    @classmethod
    async def connect(cls, url: str) -> "RawPublisher":
        """Sign in and open the channel.

        Raises:
            RefusedError: RabbitMQ refuses.
        """
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        opened = cls(reader, writer)
        writer.write(b"AMQP\x00\x00\x09\x01")
        await opened._expect(START)
        sign_in = f"\0{unquote(where.username or '')}\0{unquote(where.password or '')}".encode()
        writer.write(method(0, START_OK, long(b"") + short(b"PLAIN") + long(sign_in) + short(b"en_US")))
        limits = await opened._expect(TUNE)
        channels, largest = struct.unpack_from(">HI", limits)
        writer.write(method(0, TUNE_OK, struct.pack(">HIH", channels, largest, 0)))
        writer.write(method(0, OPEN, short(unquote(where.path[1:]).encode()) + b"\0\0"))
        await opened._expect(OPEN_OK)
        writer.write(method(1, CHANNEL_OPEN, b"\0"))
        await opened._expect(CHANNEL_OPEN_OK)
        writer.write(method(1, SELECT, b"\0"))
        await opened._expect(SELECT_OK)
        return opened

    async def publish(self, exchange: str, routing_key: str | bytes, raw: Raw, body: bytes = b"{}") -> None:
        """Publish, and wait for the confirm.

        Raises:
            RefusedError: RabbitMQ closed the connection or the channel for it.
        """
        self.send(exchange, routing_key, raw, body)
        await self.confirm()

    def send(self, exchange: str, routing_key: str | bytes, raw: Raw, body: bytes = b"{}") -> None:
        """Publish without a wait."""
        key = routing_key.encode() if isinstance(routing_key, str) else routing_key
        self.send_frames(content(exchange, key, raw, body))

    def send_frames(self, frames: bytes) -> None:
        """Send the frames of one message without a wait."""
        self.published += 1
        self.waiting.add(self.published)
        self.writer.write(frames)

    async def confirm(self) -> None:
        """Wait until all is confirmed that was published.

        Raises:
            RefusedError: RabbitMQ closed the connection or the channel.
        """
        while self.waiting:
            self._note(*await self._next())

    async def is_taken(self, frames: bytes) -> bool:
        """Send frames of one message that RabbitMQ may close the connection for; whether it took it."""
        self.published += 1
        self.waiting.add(self.published)
        self.writer.write(frames)
        # Where it waits for more of the message, it gets what is none.
        self.writer.write(method(1, SELECT, b"\0"))
        is_answered = False
        with suppress(RefusedError):
            while not is_answered or self.waiting:
                found, arguments = await self._next()
                if found == SELECT_OK:
                    is_answered = True
                else:
                    self._note(found, arguments)
        return not self.waiting

    def _note(self, found: tuple[int, int], arguments: bytes) -> None:
        if found not in {ACK, NACK}:
            raise RefusedError(f"expected a confirm, got {found}")
        tag, flags = struct.unpack_from(">QB", arguments)
        told = {number for number in self.waiting if number <= tag} if flags & 1 else {tag}
        self.waiting -= told
        if found == NACK:
            self.refused += len(told)

    def close(self) -> None:
        """Drop the connection."""
        self.writer.close()

    async def _expect(self, which: tuple[int, int]) -> bytes:
        """The arguments of the next method, which has to be this one."""
        found, arguments = await self._next()
        if found != which:
            raise RefusedError(f"expected {which}, got {found}")
        return arguments

    async def _next(self) -> tuple[tuple[int, int], bytes]:
        """The next method, and its arguments.

        Raises:
            RefusedError: RabbitMQ closes the channel or the connection.
        """
        try:
            async with asyncio.timeout(60):
                _, _, size = struct.unpack(">BHI", await self.reader.readexactly(7))
                payload = (await self.reader.readexactly(size + 1))[:-1]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise RefusedError(f"the connection is gone: {type(error).__name__}") from None
        found = struct.unpack_from(">HH", payload)
        if found in {CLOSE, CHANNEL_CLOSE}:
            raise RefusedError(payload[7 : 7 + payload[6]].decode(errors="replace"))
        return (found[0], found[1]), payload[4:]


@asynccontextmanager
async def raw_publisher(url: str) -> AsyncIterator[RawPublisher]:
    """A publisher that is closed at the end."""
    opened = await RawPublisher.connect(url)
    try:
        yield opened
    finally:
        opened.close()

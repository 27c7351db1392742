"""AMQP 0-9-1 as bytes of the sender's choice; client libraries refuse to write most of what is sent here."""

import asyncio
import struct
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pamqp.frame
from pamqp import commands
from pamqp.base import Frame

from tests.raw_amqp import BODY, FLAGS, HEADER, METHOD, frame

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT = 8
#: What RabbitMQ offers, and what the connections here agree to, in bytes.
FRAME_MAX = 131_072
#: Class and method of `channel.close` and of `connection.close`.
CLOSES = (struct.pack(">HH", 20, 40), struct.pack(">HH", 10, 50))
#: How long the broker may take to answer, in seconds.
ANSWER_S = 30.0
#: How properties are written that are no short strings.
KINDS = {"headers": "table", "delivery_mode": "octet", "priority": "octet", "timestamp": "long"}
#: With what code the broker refuses.
ACCESS_REFUSED, PRECONDITION_FAILED = 403, 406


@dataclass(frozen=True, slots=True)
class Raw:
    """A field's value as it stands on the wire, its type included."""

    wire: bytes


def as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def method(command: Frame, channel: int) -> bytes:
    return pamqp.frame.marshal(command, channel)


def short(text: str | bytes) -> bytes:
    wire = as_bytes(text)
    return bytes([len(wire)]) + wire


def table(fields: Mapping[str, Any]) -> bytes:
    wire = b"".join(short(name) + value(item) for name, item in fields.items())
    return struct.pack(">I", len(wire)) + wire


def value(item: Any) -> bytes:
    match item:
        case Raw():
            return item.wire
        case None:
            return b"V"
        case bool():
            return b"t" + bytes([item])
        case int():
            return b"l" + struct.pack(">q", item)
        case float():
            return b"d" + struct.pack(">d", item)
        case str() | bytes():
            return b"S" + struct.pack(">I", len(as_bytes(item))) + as_bytes(item)
        case dict():
            return b"F" + table(item)
        case list() | tuple():
            inner = b"".join(value(one) for one in item)
            return b"A" + struct.pack(">I", len(inner)) + inner
    raise TypeError(f"no AMQP type for {type(item).__name__}")


def content_header(body_size: int, properties: Mapping[str, Any]) -> bytes:
    """The payload of a content header of class `basic`."""
    flags, wire = 0, b""
    for name, flag in FLAGS.items():
        if name not in properties:
            continue
        flags |= flag
        kind = KINDS.get(name, "short")
        item = properties[name]
        if kind == "table":
            wire += item.wire if isinstance(item, Raw) else table(item)
        elif kind == "octet":
            wire += bytes([item])
        elif kind == "long":
            wire += struct.pack(">Q", item % 2**64)
        else:
            wire += short(item)
    return struct.pack(">HHQH", 60, 0, body_size, flags) + wire


def message(
    exchange: str, routing_key: str, body: bytes, properties: Mapping[str, Any], channel: int = 1
) -> bytes:
    """All frames of one publish."""
    whole = method(commands.Basic.Publish(exchange=exchange, routing_key=routing_key), channel)
    whole += frame(HEADER, channel, content_header(len(body), properties))
    room = FRAME_MAX - 8
    return whole + b"".join(
        frame(BODY, channel, body[begin : begin + room]) for begin in range(0, len(body), room)
    )


class ClosedByBrokerError(Exception):
    """The broker closed the channel or the connection; `code` is its reply code, 0 where it said nothing."""

    def __init__(self, code: int, text: str = "the connection ended") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


async def refusal_of(attempt: Awaitable[object]) -> int | None:
    """The code with which the broker refuses an attempt; None where it lets it pass."""
    try:
        await attempt
    except ClosedByBrokerError as closed:
        return closed.code
    return None


class RawConnection:
    """A connection to RabbitMQ, signed in, on which any bytes may be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._published = 0

    @classmethod
    async def dial(cls, url: str) -> Self:
        """Connect, and say nothing."""
        where = urlsplit(url)
        return cls(*await asyncio.open_connection(where.hostname, where.port))

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect, sign in and open the vhost; without heartbeats."""
        where = urlsplit(url)
        connection = await cls.dial(url)
        connection.send(PROTOCOL_HEADER)
        await connection.answer(commands.Connection.Start)
        response = f"\0{unquote(where.username or '')}\0{unquote(where.password or '')}"
        properties: dict[str, Any] = {
            "capabilities": {"consumer_cancel_notify": True, "connection.blocked": True}
        }
        start_ok = commands.Connection.StartOk(
            client_properties=properties, mechanism="PLAIN", response=response
        )
        connection.send(method(start_ok, 0))
        tune = await connection.answer(commands.Connection.Tune)
        tune_ok = commands.Connection.TuneOk(channel_max=tune.channel_max, frame_max=FRAME_MAX, heartbeat=0)
        connection.send(method(tune_ok, 0))
        connection.send(method(commands.Connection.Open(virtual_host=where.path.removeprefix("/")), 0))
        await connection.answer(commands.Connection.OpenOk)
        return connection

    def send(self, *wire: bytes) -> None:
        """Send without a wait."""
        self.writer.writelines(wire)

    def send_method(self, command: Frame, channel: int = 1) -> None:
        """The same of a method."""
        self.send(method(command, channel))

    def pause_reading(self) -> None:
        """Read nothing more from the socket."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()

    async def flush(self) -> None:
        """Wait until most of what was sent is on its way."""
        await self.writer.drain()

    async def ask(self, command: Frame, expected: type[Frame], channel: int = 1) -> Any:
        """Send a method and wait for its answer.

        Raises:
            ClosedByBrokerError: the broker refused.
        """
        self.send_method(command, channel)
        return await self.answer(expected)

    async def channel(self, number: int = 1) -> None:
        """Open a channel."""
        await self.ask(commands.Channel.Open(), commands.Channel.OpenOk, number)

    async def answer(self, *expected: type[Frame]) -> Any:
        """The next method of one of these kinds; what else comes is passed over.

        Raises:
            ClosedByBrokerError: the broker closed the channel or the connection.
        """
        async with asyncio.timeout(ANSWER_S):
            while True:
                kind, channel, payload = await self.frame()
                if kind != METHOD:
                    continue
                if payload[:4] in CLOSES:
                    # Not decoded: the broker's text may repeat what was sent, which may be no text.
                    (code,) = struct.unpack(">H", payload[4:6])
                    raise ClosedByBrokerError(code, repr(payload[7:]))
                _, _, command = pamqp.frame.unmarshal(frame(kind, channel, payload))
                if isinstance(command, expected):
                    return command

    async def refusal(self) -> int | None:
        """The code with which the broker closes the channel or the connection; 0 where it just hangs up."""
        return await refusal_of(self.answer())

    async def frame(self) -> tuple[int, int, bytes]:
        """The next frame: its kind, channel and payload.

        Raises:
            ClosedByBrokerError: there is none any more.
        """
        try:
            kind, channel, size = struct.unpack(">BHI", await self.reader.readexactly(7))
            payload = await self.reader.readexactly(size + 1)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ClosedByBrokerError(0) from None
        return kind, channel, payload[:-1]

    async def publish_all(self, messages: list[bytes]) -> None:
        """Publish on channel 1, and wait until the broker has confirmed or refused each.

        Args:
            messages: as `message` writes them.

        Raises:
            ClosedByBrokerError: the broker closed the channel or the connection over one.
        """
        await self.ask(commands.Confirm.Select(), commands.Confirm.SelectOk)
        self.send(*messages)
        unanswered = set(range(self._published + 1, self._published + len(messages) + 1))
        self._published += len(messages)
        while unanswered:
            answer = await self.answer(commands.Basic.Ack, commands.Basic.Nack)
            lowest = 0 if answer.multiple else answer.delivery_tag
            unanswered -= {tag for tag in unanswered if lowest <= tag <= answer.delivery_tag}

    async def hang_up(self) -> None:
        """Close the socket without a word."""
        self.writer.transport.abort()

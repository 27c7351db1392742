"""Messages made of bytes that RabbitMQ passes on or refuses, from a seed: flags, strings, tables, bodies.

What RabbitMQ takes is likely: its own parser refuses a malformed table, an unknown type and a delivery mode
that is none, and closes the publisher's connection. `may_be_refused` says that a message is of that kind.
"""

import json
import struct
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from tests.chaos.fuzz import ODD_JSON, ODD_TEXTS
from tests.raw_amqp import FLAGS, Raw, content, entry, long, short, text

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = b'{"path": "/moderations", "body": {"input": "hello"}}'
BEAT = b'{"version": "1", "host": "h", "started_at": "2026-03-10T12:00:00Z", "in_flight": 3}'
REPORT = b'{"lease_id": "none", "report_id": "1", "model": "gpt-4o-mini", "outcome": "ok"}'
ODD_NUMBERS = (0, 1, -1, 2**31, 2**63 - 1, -(2**63))
#: What a number in a body is replaced by.
HUGE = (b"9223372036854775808", b"1e400", b"-1", b"NaN", b"9" * 5000, b"null", b'"3"')
#: Headers that services read; without `x-death`, of which a malformed one crashes RabbitMQ 3.10 itself.
READ = (b"timestamp_in_ms", b"traceparent", b"tracestate", b"x-delivery-count", b"x-keyway-undecodable")


@dataclass(frozen=True, slots=True)
class Bytes:
    """One message, as its frames."""

    exchange: str
    routing_key: str
    frames: bytes
    may_be_refused: bool = False


class ByteFuzzer:
    """Makes messages of one automation; the same seed makes the same ones."""

    def __init__(self, seed: int, bot: str, reply_to: str) -> None:
        self._random = Random(seed)
        self._bot = bot
        self._reply_to = reply_to.encode()

    def message(self) -> Bytes:
        exchange, routing_key, message_type, good = self._any(
            *[("requests", self._bot, b"generation.request.v1", GOOD)] * 6,
            ("requests", f"leases.{self._bot}", b"key.lease.request.v1", b"{}"),
            ("events", f"heartbeat.{self._bot}", b"heartbeat.v1", BEAT),
            ("events", f"usage.reported.{self._bot}", b"usage.reported.v1", REPORT),
            ("events", f"usage.reported.{self._bot}", b"usage.reported.v1", REPORT),
        )
        raw, body, size = self._properties(message_type), self._body(good), None
        may_be_refused = self._one_in(20)
        if may_be_refused:
            raw, size = self._mutated(raw, body)
        frames = content(exchange, routing_key.encode(), raw, body, size)
        return Bytes(exchange, routing_key, frames, may_be_refused)

    def _properties(self, message_type: bytes) -> Raw:
        """Properties that RabbitMQ takes."""
        makers: dict[str, Callable[[], bytes]] = {
            "content_type": lambda: short(self._mostly(b"application/json")),
            "content_encoding": lambda: short(self._odd_text()),
            "headers": self._headers,
            "delivery_mode": lambda: self._any(b"\x01", b"\x02"),
            "priority": lambda: self._random.randbytes(1),
            "correlation_id": lambda: short(self._mostly(b"c-1")),
            "reply_to": lambda: short(self._mostly(self._reply_to)),
            "expiration": lambda: short(self._any(b"3600000", b"4294967295")),
            "message_id": lambda: short(
                self._any(self._odd_text(), self._random.randbytes(8).hex().encode())
            ),
            "timestamp": lambda: self._any(
                self._random.randbytes(8), *(struct.pack(">Q", number % 2**64) for number in ODD_NUMBERS)
            ),
            "type": lambda: short(self._mostly(message_type)),
            "app_id": lambda: short(self._odd_text()),
            "cluster_id": lambda: short(self._odd_text()),
        }
        # Events are known by their type; without it most would end at once.
        wanted = {"type"} if self._one_in(2) else set()
        chosen = [name for name in makers if name in wanted or self._one_in(4)]
        return Raw.of(**{name: makers[name]() for name in chosen})

    def _mutated(self, raw: Raw, body: bytes) -> tuple[Raw, int | None]:
        """Properties with bytes, flags or a size of the body that may be wrong."""
        # With a shorter time to live RabbitMQ would end the message, beside the worker that answers it.
        if raw.flags & FLAGS["expiration"]:
            return raw, None
        properties = bytearray(raw.properties)
        for _ in range(self._random.randint(0, 3) if properties else 0):
            properties[self._random.randrange(len(properties))] = self._random.randrange(256)
        if self._one_in(3):
            del properties[self._random.randrange(len(properties) + 1) :]
        flags = raw.flags ^ (1 << self._random.randrange(16)) if self._one_in(3) else raw.flags
        flags &= ~(FLAGS["user_id"] | FLAGS["expiration"])
        size = len(body) + self._any(-1, 1, 1000, 2**40) if self._one_in(6) else None
        return Raw(flags, bytes(properties)), None if size is None or size < 0 else size

    def _headers(self) -> bytes:
        if self._one_in(20):
            many = b"\x00V" * int(self._any(999, 40_000))
            return long(many) if self._one_in(2) else self._nested(self._any(31, 33, 300, 8000))
        names = [self._any(self._odd_text()[:120], *READ) for _ in range(self._random.randrange(4))]
        return long(b"".join(entry(name, self._value(2)) for name in names if name not in {b"CC", b"BCC"}))

    def _value(self, depth: int) -> bytes:
        """A value of a table, of any type that RabbitMQ knows."""
        number = self._any(*ODD_NUMBERS)
        makers: list[Callable[[], bytes]] = [
            lambda: text(self._odd_text()),
            lambda: b"x" + long(self._odd_text()),
            lambda: b"l" + struct.pack(">q", number),
            lambda: b"T" + struct.pack(">Q", number % 2**64),
            lambda: b"D" + self._random.randbytes(5),
            lambda: b"d" + struct.pack(">d", self._any(0.1, 1e300, -1e-300)),
            lambda: b"f" + struct.pack(">f", 0.5),
            lambda: self._any(b"b", b"B", b"t") + self._random.randbytes(1),
            lambda: self._any(b"s", b"u") + self._random.randbytes(2),
            lambda: self._any(b"I", b"i") + self._random.randbytes(4),
            lambda: b"V",
        ]
        if depth:
            makers += [
                lambda: b"A" + long(b"".join(self._value(depth - 1) for _ in range(3))),
                lambda: (
                    b"F" + long(b"".join(entry(self._odd_text()[:20], self._value(depth - 1)) for _ in "ab"))
                ),
            ]
        value: bytes = self._any(*makers)()
        return value

    def _nested(self, depth: int) -> bytes:
        inner = long(b"")
        for _ in range(depth):
            inner = long(entry(b"a", b"F" + inner))
        return inner

    def _body(self, good: bytes) -> bytes:
        body: bytes = self._any(
            lambda: good,
            lambda: self._random.randbytes(self._random.randrange(400)),
            lambda: self._any(*ODD_JSON),
            lambda: self._damaged(good),
            lambda: good.replace(self._any(b"3", b'"1"', b'"hello"'), self._any(*HUGE)),
            lambda: json.dumps({**json.loads(good), self._any("metadata", "x", "tokens"): 2**63}).encode(),
            lambda: good + b" " * self._any(70_000, 200_000),
        )()
        return body

    def _damaged(self, good: bytes) -> bytes:
        whole = bytearray(good)
        for _ in range(self._random.randint(1, 3)):
            whole[self._random.randrange(len(whole))] = self._random.randrange(256)
        return bytes(whole)

    def _odd_text(self) -> bytes:
        odd = self._any(
            self._random.randbytes(self._random.randrange(40)),
            self._random.randbytes(255),
            b"\xff\xfe",
            b"\xed\xa0\x80",
            *(said.encode() for said in ODD_TEXTS),
        )
        return bytes(odd[:255])

    def _mostly(self, usual: bytes) -> bytes:
        return self._odd_text() if self._one_in(4) else usual

    def _any(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def _one_in(self, times: int) -> bool:
        return self._random.randrange(times) == 0

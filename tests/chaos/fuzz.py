"""Messages that nobody should send, from a seed: bodies, properties and headers of every kind."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: Header by which a dead letter is told from the others.
NUMBER_HEADER = "x-fuzz-number"
ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "a/b",
    "$set",
    "../..",
    "ключ 🔑",
    "x" * 200,
    "é" * 120,
    "null",
    "{}",
    "%s%n",
    "\r\n",
)
ODD_JSON = (
    *(b"", b"null", b"[]", b"{}", b"0", b'"text"', b"NaN", b"{", b"\xef\xbb\xbf{}", b'{"path": }'),
    *(b'{"path": "/moderations", "path": "/embeddings"}', b'{"body": 1e999}', b'"\\ud800"'),
    *(b"[" * 50_000, b'{"a":' * 20_000, b"9" * 5000, "{}".encode("utf-16")),
)
VALID = {
    "path": "/chat/completions",
    "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]},
}
PATHS = (
    "/chat/completions",
    "/responses",
    "/embeddings",
    "/moderations",
    "/images/generations",
    "/models",
    "..",
)
FIELDS = ("path", "body", "user_id", "deadline", "metadata", "stream", "automation_id", "replayed", "")


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """One message; either its id or its correlation id is its own, and a header has its number."""

    number: int
    body: bytes
    reply_to: str | None
    properties: dict[str, Any]
    headers: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """By what its answer can be told from the others."""
        return {f"f-{self.number}", f"c-{self.number}"}


class Fuzzer:
    """Makes messages of one automation; the same seed makes the same ones.

    Args:
        seed: of the randomness.
        bot: the automation.
        reply_to: the queue in which its answers are looked for.
    """

    def __init__(self, seed: int, bot: str, reply_to: str) -> None:
        self._random = Random(seed)
        self._bot = bot
        self._reply_to = reply_to

    def message(self, number: int) -> Fuzzed:
        reply_to = self._reply_address()
        is_answered_here = reply_to == self._reply_to
        message_id: str | None = f"f-{number}"
        correlation_id: str | None = f"c-{number}"
        if self._one_in(3) and is_answered_here:
            message_id = self._any(None, "f-again", *ODD_TEXTS)
        elif self._one_in(3):
            correlation_id = self._any(None, "c-again", *ODD_TEXTS)
        properties = {
            "message_id": message_id,
            "correlation_id": correlation_id,
            "type": self._mostly(None, "generation.request.v1", "generation.result.v1", *ODD_TEXTS),
            "content_type": self._mostly("application/json", None, "text/plain", *ODD_TEXTS),
            "content_encoding": self._mostly(None, "gzip", *ODD_TEXTS),
            "expiration": self._mostly(None, 0, 0.001, 0.05, 5, 4_000_000),
            "priority": self._mostly(None, 0, 9, 255),
            "timestamp": self._mostly(None, *self._times()),
            "app_id": self._mostly(None, *ODD_TEXTS),
            "delivery_mode": self._any(1, 2),
        }
        headers = self._headers() if self._one_in(2) else {}
        if "x-death" in headers:
            # RabbitMQ would add its own death to the forged one, which then answers for the request.
            properties["expiration"] = None
        return Fuzzed(number, self._body(), reply_to, properties, {**headers, NUMBER_HEADER: number})

    def _reply_address(self) -> str | None:
        if not self._one_in(4):
            return self._reply_to
        foreign = ("requests.x", "dead", "accounting", f"replies.{self._bot}x", "replies.", *ODD_TEXTS)
        address: str | None = self._any(None, f"replies.{self._bot}.gone", *foreign)
        return address

    def _body(self) -> bytes:
        makers: tuple[Callable[[], bytes], ...] = (
            lambda: self._random.randbytes(self._random.randrange(300)),
            lambda: self._any(*ODD_JSON),
            lambda: json.dumps(VALID).encode(),
            self._with_odd_field,
            self._with_odd_path,
            self._damaged,
        )
        maker: Callable[[], bytes] = self._any(*makers)
        return maker()

    def _with_odd_field(self) -> bytes:
        request: dict[str, Any] = {**VALID, self._any(*FIELDS): self._json(depth=3)}
        if self._one_in(4):
            request.pop(self._any("path", "body"), None)
        return json.dumps(request).encode()

    def _with_odd_path(self) -> bytes:
        body = {
            "model": self._any("gpt-4o-mini", self._json(1)),
            self._any("input", "messages"): self._json(3),
        }
        return json.dumps({"path": self._any(*PATHS), "body": body}).encode()

    def _damaged(self) -> bytes:
        whole = bytearray(json.dumps(VALID).encode())
        for _ in range(self._random.randint(1, 4)):
            whole[self._random.randrange(len(whole))] = self._random.randrange(256)
        return bytes(whole[: self._random.randint(1, len(whole))] if self._one_in(3) else whole)

    def _json(self, depth: int) -> Any:
        if depth == 0 or self._one_in(2):
            return self._any(None, True, 0, -1, 2**70, 1e300, 0.1, *self._dates(), *ODD_TEXTS)
        inner = [self._json(depth - 1) for _ in range(self._random.randrange(4))]
        return inner if self._one_in(2) else {self._any("model", "role", "n", *ODD_TEXTS): x for x in inner}

    def _headers(self) -> dict[str, Any]:
        # A forged `x-death` is well formed here: RabbitMQ 3.10 itself stumbles over any other.
        death = {"queue": f"requests.{self._bot}", "reason": self._any("expired", "rejected", 7), "count": 1}
        values = (
            None,
            True,
            -(2**62),
            2**62,
            0.5,
            bytearray(b"\xff\x00"),
            ["a", 1, {"b": None}],
            {"a": {"b": [1]}},
        )
        names = ("traceparent", "x-delivery-count", "x-first-death-queue", "x-retry", "CC", *ODD_TEXTS)
        odd = {str(self._any(*names))[:60]: self._any(*values, *ODD_TEXTS) for _ in range(3)}
        odd.pop("CC", None)  # RabbitMQ itself refuses one that is no list
        odd["timestamp_in_ms"] = self._any(*values, *ODD_TEXTS)
        odd["x-death"] = self._any([death], [death, death], [])
        return {name: odd[name] for name in odd if self._one_in(2)}

    def _dates(self) -> tuple[str, ...]:
        return ("2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-01-01", "tomorrow")

    def _times(self) -> tuple[datetime, ...]:
        return (
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(2106, 2, 7, 7, tzinfo=UTC),
            datetime(9999, 12, 31, tzinfo=UTC),
        )

    def _mostly(self, usual: Any, *odd: Any) -> Any:
        return self._any(*odd) if self._one_in(4) else usual

    def _any(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def _one_in(self, times: int) -> bool:
        return self._random.randrange(times) == 0

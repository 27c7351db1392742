"""What the provider saw: one record per call, in memory and, if wanted, in a JSONL file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import orjson

Outcome: TypeAlias = Literal[
    "ok",
    "rate_limited",
    "insufficient_quota",
    "invalid_key",
    "forbidden",
    "model_not_found",
    "bad_request",
    "server_error",
    "overloaded",
    "hang",
    "broken_json",
    "cut",
    "dropped",
    "client_gone",
]


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the provider saw it.

    The tokens are those that were worked off: all of them after a whole answer (`ok`, `broken_json`), those
    of the chunks that were sent when a stream ended early (`cut`, `client_gone`), else none.
    """

    #: Unix seconds at which the request had arrived whole; its limits were decided at this time.
    at: float
    ended_at: float
    #: The key's name in the script; `unknown-…` for one that is not there, `none` without a key.
    key: str
    #: Below `/v1`, such as `/chat/completions`.
    path: str
    #: None when the call was refused before its body was read, or the body had none.
    model: str | None
    body_sha256: str
    #: The header `X-Client-Request-Id`.
    client_request_id: str | None
    outcome: Outcome
    #: None when no answer was begun.
    http_status: int | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    stream: bool


@dataclass(slots=True)
class Draft:
    """A call that is under way. Until it has another outcome, the client that goes is why it ended."""

    at: float
    path: str
    client_request_id: str | None
    key: str = "none"
    model: str | None = None
    body_sha256: str = ""
    stream: bool = False
    outcome: Outcome = "client_gone"
    http_status: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def finish(self, ended_at: float) -> Call:
        """The record of it."""
        return Call(
            at=self.at,
            ended_at=ended_at,
            key=self.key,
            path=self.path,
            model=self.model,
            body_sha256=self.body_sha256,
            client_request_id=self.client_request_id,
            outcome=self.outcome,
            http_status=self.http_status,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
            stream=self.stream,
        )


class Journal:
    """The records, in the order in which the calls ended."""

    def __init__(self, path: Path | None = None) -> None:
        """Begin an empty journal; append to the file, if one is given, a line as each call ends."""
        self._calls: list[Call] = []
        self._file = path.open("ab", buffering=0) if path else None

    def add(self, call: Call) -> None:
        """Record a call."""
        self._calls.append(call)
        if self._file:
            self._file.write(orjson.dumps(call, option=orjson.OPT_APPEND_NEWLINE))

    def calls(self, since: float = 0, key: str | None = None) -> list[Call]:
        """The calls that arrived at `since` (Unix seconds) or later, of one key or of all."""
        return [call for call in self._calls if call.at >= since and key in {None, call.key}]

    def clear(self) -> int:
        """Forget all calls, and say how many they were; the file keeps its lines."""
        count = len(self._calls)
        self._calls.clear()
        return count

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

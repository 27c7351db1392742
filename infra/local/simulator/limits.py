"""The provider's own limits: an exact sliding log over 60 seconds, and tokens of the UTC day."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from infra.local.simulator.script import KeyScript

WINDOW_S = 60
DAY_S = 86_400


@dataclass(slots=True)
class Window:
    """What one key has used. A call at `t` counts until, and not at, `t + 60 s`."""

    #: (when it leaves the window, its tokens), oldest first.
    calls: deque[tuple[float, int]] = field(default_factory=deque)
    tokens: int = 0
    #: Days since 1970-01-01 UTC.
    day: int = 0
    day_tokens: int = 0

    def forget(self, now: float) -> None:
        """Let go of what no longer counts at `now`."""
        calls = self.calls
        while calls and calls[0][0] <= now:
            self.tokens -= calls.popleft()[1]
        day = int(now // DAY_S)
        if day > self.day:
            self.day, self.day_tokens = day, 0

    def take(self, now: float, tokens: int) -> None:
        """Count an admitted call."""
        self.calls.append((now + WINDOW_S, tokens))
        self.tokens += tokens
        self.day_tokens += tokens


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call is within every limit."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The call is over a limit; of several, over the one that lasts longest."""

    kind: Literal["requests", "tokens"]
    #: As OpenAI names it in the message.
    per: str
    limit: int
    used: int
    requested: int
    #: Unix seconds at which the same call would pass; infinity when it is larger than the limit itself.
    retry_at: float


def admit(window: Window, script: KeyScript, now: float, tokens: int) -> Admitted | Refused:
    """Decide on a call of so many tokens. The window must have forgotten up to `now`, and is not changed."""
    refusals = []
    used = len(window.calls)
    if (limit := script.requests_per_minute) is not None and used + 1 > limit:
        retry_at = window.calls[used - limit][0]
        refusals.append(Refused("requests", "requests per min (RPM)", limit, used, 1, retry_at))
    if (limit := script.tokens_per_minute) is not None and window.tokens + tokens > limit:
        retry_at = _when_freed(window, window.tokens + tokens - limit)
        refusals.append(Refused("tokens", "tokens per min (TPM)", limit, window.tokens, tokens, retry_at))
    if (limit := script.tokens_per_day) is not None and window.day_tokens + tokens > limit:
        retry_at = math.inf if tokens > limit else (now // DAY_S + 1) * DAY_S
        refusals.append(Refused("tokens", "tokens per day (TPD)", limit, window.day_tokens, tokens, retry_at))
    return max(refusals, key=lambda refused: refused.retry_at) if refusals else Admitted()


def _when_freed(window: Window, tokens: int) -> float:
    for leaves_at, freed in window.calls:
        tokens -= freed
        if tokens <= 0:
            return leaves_at
    return math.inf


def limit_headers(window: Window, script: KeyScript, now: float) -> dict[str, str]:
    """`x-ratelimit-*` of every answer; the reset is, as OpenAI's, the time until the limit is whole again."""
    reset = duration(window.calls[-1][0] - now) if window.calls else "0s"
    headers = {}
    for kind, limit, used in (
        ("requests", script.requests_per_minute, len(window.calls)),
        ("tokens", script.tokens_per_minute, window.tokens),
    ):
        if limit is not None:
            headers[f"x-ratelimit-limit-{kind}"] = str(limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, limit - used))
            headers[f"x-ratelimit-reset-{kind}"] = reset
    return headers


def retry_headers(seconds: float) -> dict[str, str]:
    """`retry-after` and `retry-after-ms`, rounded up; none when no wait would help."""
    if math.isinf(seconds):
        return {}
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}


def duration(seconds: float) -> str:
    """A time as OpenAI's headers write it: `20ms`, `1.5s`, `6m0s`, `24h0m0s`."""
    milliseconds = max(0, math.ceil(seconds * 1000))
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:g}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return text

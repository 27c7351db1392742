"""What a provider says of its own limits: in the headers of one answer, and what is remembered of them.

Providers limit each model by itself, so what they say is remembered for each model of a key by itself. Where
they count more calls or tokens than Keyway made, somebody else uses the key too: that is *outside* use.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

#: How long limits that a provider names are kept to, in seconds; then it is asked again, by calling.
REPORTED_S = 3600
#: Outside use is taken to be over by the time at which the provider's limit is whole again, and after so long
#: at the latest, in milliseconds.
LONGEST_RESET_MS = 60_000
SHORTEST_RESET_MS = 1_000


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The rate limit headers of one answer (OpenAI, "Rate limits in headers"); None where one is missing.

    Attributes:
        requests_per_minute: `x-ratelimit-limit-requests`.
        tokens_per_minute: `x-ratelimit-limit-tokens`.
        requests_left: `x-ratelimit-remaining-requests`.
        tokens_left: `x-ratelimit-remaining-tokens`.
        reset_ms: the longer of `x-ratelimit-reset-*`, in milliseconds.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_left: int | None = None
    tokens_left: int | None = None
    reset_ms: int = 0

    @property
    def requests_used(self) -> int:
        """Requests that the provider counts against its limit; 0 where it does not say."""
        return _used(self.requests_per_minute, self.requests_left)

    @property
    def tokens_used(self) -> int:
        """Tokens that the provider counts against its limit; 0 where it does not say."""
        return _used(self.tokens_per_minute, self.tokens_left)


@dataclass(frozen=True, slots=True)
class Reported:
    """What is remembered of a model's limits at the provider; times in seconds since the epoch."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    until: float
    outside_requests: int = 0
    outside_tokens: int = 0
    outside_since: float = 0.0
    outside_until: float = 0.0

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read an entry of a key's `reported`."""
        return cls(
            document["requests_per_minute"],
            document["tokens_per_minute"],
            document["until"].timestamp(),
            document["outside_requests"],
            document["outside_tokens"],
            document["outside_since"].timestamp(),
            document["outside_until"].timestamp(),
        )

    def outside(self, now: float) -> tuple[int, int]:
        """Requests and tokens of others that still count: they fade evenly until the provider's reset."""
        if now >= self.outside_until:
            return 0, 0
        share = min(1.0, (self.outside_until - now) / (self.outside_until - self.outside_since))
        return math.ceil(self.outside_requests * share), math.ceil(self.outside_tokens * share)


def merged(words: Sequence[RateLimits]) -> RateLimits:
    """What several answers of about the same time say together: the newest limits, the least that is left."""
    newest = words[-1]
    return RateLimits(
        newest.requests_per_minute,
        newest.tokens_per_minute,
        min((word.requests_left for word in words if word.requests_left is not None), default=None),
        min((word.tokens_left for word in words if word.tokens_left is not None), default=None),
        max(word.reset_ms for word in words),
    )


def is_news(known: Reported | None, word: RateLimits, used: tuple[int, int], now: float) -> bool:
    """Whether an answer's headers change what is known of its model, so that they are worth writing down.

    Args:
        known: what is remembered.
        word: what the answer says.
        used: requests and tokens that Keyway counts for this model.
        now: the time, in seconds since the epoch.
    """
    if known is None or known.until - now < REPORTED_S / 2:
        return True
    if (known.requests_per_minute, known.tokens_per_minute) != (
        word.requests_per_minute,
        word.tokens_per_minute,
    ):
        return True
    outside_requests, outside_tokens = known.outside(now)
    return word.requests_used > used[0] + outside_requests or word.tokens_used > used[1] + outside_tokens


def lower_limits(
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    reported: Mapping[str, Reported],
    now: float,
) -> list[str]:
    """Where the provider allows less than the operator thinks, a line for people each.

    Args:
        requests_per_minute: the operator's limit.
        tokens_per_minute: the operator's limit.
        reported: what the provider says, by model.
        now: the time, in seconds since the epoch.
    """
    lines = []
    for model, said in reported.items():
        pairs = {
            "requests": (requests_per_minute, said.requests_per_minute),
            "tokens": (tokens_per_minute, said.tokens_per_minute),
        }
        lower = [
            f"{theirs} {what}"
            for what, (ours, theirs) in pairs.items()
            if theirs is not None and ours is not None and theirs < ours
        ]
        if lower and said.until > now:
            lines.append(f"the provider allows {' and '.join(lower)} a minute for {model or 'its model'}")
    return lines


def _used(limit: int | None, left: int | None) -> int:
    return 0 if limit is None or left is None else max(0, limit - left)

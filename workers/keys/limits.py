"""Limits of a key, exact in any rolling minute, however many workers reserve.

Every reservation is counted in the key's document under the second in which it was made, on MongoDB's own
clock; it is admitted when what stands there for the last `SPAN_S` seconds leaves room. That is a sliding log
(as in Redis' and Envoy's rate limiters) in buckets of a second, so that a document stays small at any rate.

The functions here decide; `reservations.py` says the same to MongoDB, which has the last word.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from workers.keys.key import Key

#: The rolling window of a provider's "per minute".
WINDOW_S = 60
#: Seconds that a reservation outlives the window: a bucket's length, and what a call may be late on its way.
GUARD_S = 3
SPAN_S = WINDOW_S + GUARD_S
#: Looked at again this soon where room comes back with an answer, not with time, in seconds.
SOON_S = 0.5
#: A key without a limit is taken to have this one, so that its use counts when keys are compared.
UNLIMITED = 10**12
#: Failures in a row that open a key's circuit.
CIRCUIT_FAILURES = 5


@dataclass(slots=True)
class Room:
    """What a key has left now; `take` counts down while a batch is planned."""

    requests: int
    tokens: int
    day_tokens: int
    in_flight: int

    def fits(self, tokens: int) -> bool:
        """Whether one more call of so many tokens is within every limit."""
        return (
            self.requests >= 1 and self.in_flight >= 1 and tokens <= self.tokens and tokens <= self.day_tokens
        )

    def take(self, tokens: int) -> None:
        """Count a call."""
        self.requests -= 1
        self.in_flight -= 1
        self.tokens -= tokens
        self.day_tokens -= tokens


def today(now: float) -> str:
    """The UTC day, as it stands in documents."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def next_midnight(now: float) -> float:
    """When the daily limits start anew: the next UTC midnight."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day + timedelta(days=1)).timestamp()


def chargeable(key: Key, tokens: int) -> int:
    """An estimate, cut to what the key can ever admit: a large call waits for an empty window."""
    limits = [key.limits.tokens_per_minute, key.limits.tokens_per_day]
    return min([tokens, *(limit for limit in limits if limit is not None)])


def used_in_window(key: Key, now: float) -> tuple[int, int]:
    """Requests and tokens that count now."""
    live = [entry for entry in key.window if entry.second > math.floor(now) - SPAN_S]
    return sum(entry.requests for entry in live), sum(entry.tokens for entry in live)


def used_today(key: Key, now: float) -> int:
    """Tokens of the UTC day that are settled."""
    return key.day_tokens if key.day == today(now) else 0


def in_flight_limit(key: Key) -> int:
    """How many calls may be under way; one, the trial, where the circuit is half-open."""
    limit = UNLIMITED if key.limits.max_in_flight is None else key.limits.max_in_flight
    return min(limit, 1) if key.failures_in_a_row >= CIRCUIT_FAILURES else limit


def room(key: Key, now: float) -> Room:
    """What is left of each limit."""
    requests, tokens = used_in_window(key, now)
    limits = key.limits
    return Room(
        requests=_left(limits.requests_per_minute, requests),
        tokens=_left(limits.tokens_per_minute, tokens),
        day_tokens=_left(limits.tokens_per_day, used_today(key, now) + key.held_tokens),
        in_flight=in_flight_limit(key) - key.held_calls,
    )


def utilisation(key: Key, left: Room) -> float:
    """The highest of the key's request, token and day fractions, 0 to 1 (over 1 after an overshoot)."""
    limits = key.limits
    return max(
        _fraction(limits.requests_per_minute, left.requests),
        _fraction(limits.tokens_per_minute, left.tokens),
        _fraction(limits.tokens_per_day, left.day_tokens),
    )


def is_spent(key: Key, tokens: int, now: float) -> bool:
    """Whether the key is out of its quota, or out of tokens of the day for a call of so many."""
    if key.lacks_quota(now):
        return True
    limit = key.limits.tokens_per_day
    return limit is not None and used_today(key, now) + tokens > limit


def available_at(key: Key, tokens: int, now: float) -> float:
    """The earliest moment at which a call of so many tokens may fit, if nobody else comes first."""
    moment = max(now, key.cooled_until)
    if not key.is_usable(now):
        moment = max(moment, math.inf if key.status_until is None else key.status_until)
    limits = key.limits
    if limits.requests_per_minute is not None:
        counts = [(entry.second, entry.requests) for entry in key.window]
        moment = max(moment, _freed_at(counts, limits.requests_per_minute - 1, now))
    if limits.tokens_per_minute is not None:
        counts = [(entry.second, entry.tokens) for entry in key.window]
        moment = max(moment, _freed_at(counts, limits.tokens_per_minute - tokens, now))
    if limits.tokens_per_day is not None:
        settled = used_today(key, now)
        if settled + tokens > limits.tokens_per_day:
            moment = max(moment, next_midnight(now))
        elif settled + key.held_tokens + tokens > limits.tokens_per_day:
            moment = max(moment, now + SOON_S)
    if key.held_calls >= in_flight_limit(key):
        moment = max(moment, now + SOON_S)
    return moment


def _freed_at(counts: list[tuple[int, int]], allowed: int, now: float) -> float:
    """When the counts of the window will have fallen to `allowed`."""
    live = sorted(entry for entry in counts if entry[0] > math.floor(now) - SPAN_S)
    total = sum(count for _, count in live)
    for second, count in live:
        if total <= allowed:
            break
        total -= count
        now = second + SPAN_S
    return now


def _left(limit: int | None, used: int) -> int:
    return (UNLIMITED if limit is None else limit) - used


def _fraction(limit: int | None, left: int) -> float:
    return 1 - left / (UNLIMITED if limit is None else limit)

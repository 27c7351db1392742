"""Limits of a key, exact in any rolling minute, however many workers reserve.

Every reservation is counted in the key's document under the second in which it was made, on MongoDB's own
clock; it is admitted when what stands there for the last `SPAN_S` seconds leaves room. That is a sliding log
(as in Redis' and Envoy's rate limiters) in buckets of a second, so that a document stays small at any rate.

The functions here decide; `reservations.py` says the same to MongoDB, which has the last word.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from workers.keys.key import Key, WindowEntry
from workers.keys.reported import Reported

#: The rolling window of a provider's "per minute".
WINDOW_S = 60
#: Seconds that a reservation outlives the window: a bucket's length, and what a call may be late on its way.
GUARD_S = 3
SPAN_S = WINDOW_S + GUARD_S
#: Looked at again this soon where room comes back with an answer, not with time, in seconds.
SOON_S = 0.5
#: A key without a limit is taken to have this one, so that its use counts when keys are compared.
UNLIMITED = 10**12
#: Failures in a row that open a key's circuit; it is closed by the next good answer.
CIRCUIT_FAILURES = 5
#: A key that came back is given one call at a time, after so long two, then four, and so on, in seconds.
RAMP_STEP_S = 5
#: The ramp ends after so long, in seconds; by then it stands at over 4,000 calls at a time.
RAMP_S = 60
#: What a call is taken for where there was none in the last minute, in tokens.
TYPICAL_TOKENS = 500
#: How soon to look again where somebody else uses up a provider's limit, in seconds.
OUTSIDE_LOOK_S = 1.0


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

    def calls_of(self, tokens: int) -> int:
        """How many calls of so many tokens are within every limit; negative after an overshoot."""
        return min(self.requests, self.in_flight, min(self.tokens, self.day_tokens) // max(tokens, 1))

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


def chargeable(key: Key, tokens: int, model: str | None, now: float) -> int:
    """An estimate, cut to what the key can ever admit: a large call waits for an empty window."""
    reported = key.reported_for(model, now)
    limits = [
        key.limits.tokens_per_minute,
        key.limits.tokens_per_day,
        reported.tokens_per_minute if reported else None,
    ]
    return min([tokens, *(limit for limit in limits if limit is not None)])


def used_in_window(key: Key, now: float, model: str | None = None) -> tuple[int, int]:
    """Requests and tokens that count now: of a model, or of all (None)."""
    live = [
        entry
        for entry in _entries(key)
        if entry.second > math.floor(now) - SPAN_S and model in {None, entry.model}
    ]
    return sum(entry.requests for entry in live), sum(entry.tokens for entry in live)


def used_today(key: Key, now: float) -> int:
    """Tokens of the UTC day that are settled."""
    return key.day_tokens if key.day == today(now) else 0


def in_flight_limit(key: Key, now: float) -> int:
    """How many calls may be under way: one, the trial, while the circuit is half-open; few after that."""
    limit = UNLIMITED if key.limits.max_in_flight is None else key.limits.max_in_flight
    if key.failures_in_a_row >= CIRCUIT_FAILURES:
        return min(limit, 1)
    since_s = now - key.ramp_since
    return min(limit, 2 ** int(since_s // RAMP_STEP_S)) if 0 <= since_s < RAMP_S else limit


def room(key: Key, now: float) -> Room:
    """What is left of each of the operator's limits."""
    requests, tokens = used_in_window(key, now)
    limits = key.limits
    return Room(
        requests=_left(limits.requests_per_minute, requests),
        tokens=_left(limits.tokens_per_minute, tokens),
        day_tokens=_left(limits.tokens_per_day, used_today(key, now) + key.held_tokens),
        in_flight=in_flight_limit(key, now) - key.held_calls,
    )


def model_room(key: Key, model: str | None, now: float) -> Room:
    """What is left of the limits that the provider reports for a model."""
    left = Room(UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED)
    if (reported := key.reported_for(model, now)) is not None:
        requests, tokens = used_in_window(key, now, model or "")
        outside_requests, outside_tokens = reported.outside(now)
        left.requests = _left(reported.requests_per_minute, requests + outside_requests)
        left.tokens = _left(reported.tokens_per_minute, tokens + outside_tokens)
    return left


def calls_that_fit(key: Key, now: float) -> int:
    """How many calls like those of the last minute the key has room for now."""
    if not key.may_be_called(now):
        return 0
    requests, tokens = used_in_window(key, now)
    tokens_a_call = tokens // requests if requests else TYPICAL_TOKENS
    return max(0, room(key, now).calls_of(tokens_a_call))


def utilisation(key: Key, left: Room) -> float:
    """The highest of the key's request, token and day fractions, 0 to 1 (over 1 after an overshoot)."""
    limits = key.limits
    return max(
        _fraction(limits.requests_per_minute, left.requests),
        _fraction(limits.tokens_per_minute, left.tokens),
        _fraction(limits.tokens_per_day, left.day_tokens),
    )


def model_utilisation(reported: Reported | None, left: Room) -> float:
    """The same of the limits that the provider reports for a model."""
    if reported is None:
        return 0.0
    return max(
        _fraction(reported.requests_per_minute, left.requests),
        _fraction(reported.tokens_per_minute, left.tokens),
    )


def is_spent(key: Key, tokens: int, now: float) -> bool:
    """Whether the key is out of its quota, or out of tokens of the day for a call of so many."""
    if key.lacks_quota(now) or (key.status == "exhausted" and not key.is_usable(now)):
        return True
    limit = key.limits.tokens_per_day
    return limit is not None and used_today(key, now) + tokens > limit


def available_at(key: Key, tokens: int, model: str | None, now: float) -> float:
    """The earliest moment at which a call of so many tokens may fit, if nobody else comes first.

    Infinite where nobody knows: a quota comes back when somebody pays.
    """
    if key.lacks_quota(now):
        return math.inf
    moment = max(now, key.cooled_until)
    if not key.is_usable(now):
        until = key.probe_at if key.is_failing() else key.status_until
        moment = max(moment, math.inf if until is None else until, now + SOON_S)
    limits = key.limits
    requests = [(entry.second, entry.requests) for entry in _entries(key)]
    counted = [(entry.second, entry.tokens) for entry in _entries(key)]
    moment = max(
        moment,
        _freed_at(requests, limits.requests_per_minute, 1, now),
        _freed_at(counted, limits.tokens_per_minute, tokens, now),
    )
    if limits.tokens_per_day is not None:
        settled = used_today(key, now)
        if settled + tokens > limits.tokens_per_day:
            moment = max(moment, next_midnight(now))
        elif settled + key.held_tokens + tokens > limits.tokens_per_day:
            moment = max(moment, now + SOON_S)
    if key.held_calls >= in_flight_limit(key, now):
        moment = max(moment, now + SOON_S)
    return max(moment, _model_available_at(key, tokens, model, now))


def comes_back_at(key: Key, available: float, now: float) -> float:
    """When to ask again for a key that will be available then; where nobody knows, when it is tried next."""
    if math.isfinite(available):
        return available
    # One that is left out until a probe is not back when its cooldown is over.
    tries = (key.probe_at,) if key.is_failing() else (key.probe_at, key.cooled_until)
    return max((moment for moment in tries if moment is not None and moment > now), default=math.inf)


def _model_available_at(key: Key, tokens: int, model: str | None, now: float) -> float:
    reported = key.reported_for(model, now)
    if reported is None:
        return now
    mine = [entry for entry in _entries(key) if entry.model == (model or "")]
    requests = [(entry.second, entry.requests) for entry in mine]
    counted = [(entry.second, entry.tokens) for entry in mine]
    moment = max(
        _freed_at(requests, reported.requests_per_minute, 1, now),
        _freed_at(counted, reported.tokens_per_minute, tokens, now),
    )
    if model_room(key, model, now).fits(tokens) or reported.outside(now) == (0, 0):
        return moment
    return max(moment, now + OUTSIDE_LOOK_S)


def _entries(key: Key) -> list[WindowEntry]:
    """What counts in this minute: what was reserved, and what is leased, in the second it leaves by."""
    leased = [
        WindowEntry(math.ceil(call.until) - SPAN_S, call.requests, call.tokens, call.model)
        for call in key.leased
    ]
    return [*key.window, *leased]


def _freed_at(counts: list[tuple[int, int]], limit: int | None, wanted: int, now: float) -> float:
    """When the counts of the window will have fallen so far that `limit` has room for `wanted`."""
    if limit is None:
        return now
    live = sorted(entry for entry in counts if entry[0] > math.floor(now) - SPAN_S)
    total = sum(count for _, count in live)
    for second, count in live:
        if total + wanted <= limit:
            break
        total -= count
        now = second + SPAN_S
    return now


def _left(limit: int | None, used: int) -> int:
    return (UNLIMITED if limit is None else limit) - used


def _fraction(limit: int | None, left: int) -> float:
    return 1 - left / (UNLIMITED if limit is None else limit)

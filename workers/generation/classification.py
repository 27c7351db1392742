"""What a provider's failure means for the key and for the request: one table (architecture.md, Upstream).

Codes and types are OpenAI's (platform.openai.com, Error codes); providers that speak its API use the same.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum

from contracts.messages import Outcome
from workers.keys.reported import RateLimits

#: Codes and types that say that money or quota is gone, whatever the status.
QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
#: Codes that say that the key itself is dead, whatever the status.
AUTH_CODES = frozenset({"invalid_api_key", "account_deactivated", "organization_deactivated"})
MODEL_CODES = frozenset({"model_not_found", "model_not_available"})
#: How long a key is left alone after a refusal that accounting is about to act on, in milliseconds.
REFUSED_COOL_MS = 60_000
#: How long after a 429 that names no time, in milliseconds.
RATE_LIMITED_COOL_MS = 5_000
#: After a 429 a key is left alone for at least so long, in milliseconds, whatever it says.
SHORTEST_COOL_MS = 100
#: No provider's word is taken for longer than this, in milliseconds.
LONGEST_COOL_MS = 24 * 3600 * 1000
#: What a provider's rate limits count.
LIMITED = ("requests", "tokens")


class Next(Enum):
    """What becomes of the request."""

    OTHER_KEY = "the next key, at once"
    BACK_OFF = "another key, or the same after a pause"
    STOP = "the answer is final"
    GIVE_UP = "no further call: the next one would end like this one"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one failed attempt means.

    Attributes:
        outcome: as it stands in the ledger.
        next: what becomes of the request.
        blames_key: whether the key's health goes down.
        cool_ms: how long the key is left alone, in milliseconds.
        denies_model: the key may not use the model; the key is fine otherwise.
    """

    outcome: Outcome
    next: Next
    blames_key: bool = False
    cool_ms: int = 0
    denies_model: bool = False


REJECTED = Verdict(Outcome.REJECTED, Next.STOP)
AUTH_FAILED = Verdict(Outcome.AUTH_FAILED, Next.OTHER_KEY, blames_key=True, cool_ms=REFUSED_COOL_MS)
QUOTA_EXHAUSTED = Verdict(Outcome.QUOTA_EXHAUSTED, Next.OTHER_KEY, cool_ms=REFUSED_COOL_MS)
MODEL_UNAVAILABLE = Verdict(Outcome.MODEL_UNAVAILABLE, Next.OTHER_KEY, denies_model=True)
SERVER_ERROR = Verdict(Outcome.SERVER_ERROR, Next.BACK_OFF, blames_key=True)
TIMEOUT = Verdict(Outcome.TIMEOUT, Next.BACK_OFF, blames_key=True)
CONNECTION_ERROR = Verdict(Outcome.CONNECTION_ERROR, Next.BACK_OFF, blames_key=True)
BAD_RESPONSE = Verdict(Outcome.BAD_RESPONSE, Next.BACK_OFF, blames_key=True)
CANCELLED = Verdict(Outcome.CANCELLED, Next.STOP)
#: The provider closed a stream that its reader left waiting.
READER_TOO_SLOW = Verdict(Outcome.CANCELLED, Next.GIVE_UP)
TOO_LARGE = Verdict(Outcome.BAD_RESPONSE, Next.GIVE_UP)


def classify(status: int, code: str, message: str, headers: Mapping[str, str], now: float) -> Verdict:
    """Judge an answer with an error status.

    Args:
        status: the HTTP status, of an error or a redirect.
        code: the error body's code, or its type where there is none; may be empty.
        message: the error body's message; may be empty.
        headers: the answer's, found in lower case.
        now: seconds since the epoch, for a `retry-after` that is a date.
    """
    if status < 400:
        return BAD_RESPONSE
    if code in QUOTA_CODES or status == 402:
        return QUOTA_EXHAUSTED
    if status == 401 or code in AUTH_CODES:
        return AUTH_FAILED
    if status == 429:
        cool_ms = retry_after_ms(headers, now)
        return Verdict(
            Outcome.RATE_LIMITED,
            Next.OTHER_KEY,
            cool_ms=RATE_LIMITED_COOL_MS if cool_ms is None else max(cool_ms, SHORTEST_COOL_MS),
        )
    if status == 403 and "policy" in f"{code} {message}".lower():
        return REJECTED
    if code in MODEL_CODES or (status in {403, 404} and "model" in message.lower()):
        return MODEL_UNAVAILABLE
    if status == 403:
        return AUTH_FAILED
    if status == 408 or status >= 500:
        return SERVER_ERROR
    return REJECTED


def retry_after_ms(headers: Mapping[str, str], now: float) -> int | None:
    """How long the provider asks to wait, in milliseconds: the longest that it names, if it names any.

    `retry-after-ms` and `retry-after` (RFC 9110: seconds, or a date) come first; without them the reset
    of each limit of which nothing remains (`x-ratelimit-reset-*`, such as `6m0s`). A date counts from the
    answer's own `date`, where it has one, so that no clock but the provider's has to be right.
    """
    named = [_milliseconds(_header(headers, "retry-after-ms")), _retry_after(headers, now)]
    waits = [wait for wait in named if wait is not None]
    if not waits:
        waits = [
            duration_ms(_header(headers, f"x-ratelimit-reset-{limit}") or "") or 0
            for limit in LIMITED
            if (_header(headers, f"x-ratelimit-remaining-{limit}") or "").strip() == "0"
        ]
    return min(max(0, *waits), LONGEST_COOL_MS) if waits else None


def rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """What an answer's `x-ratelimit-*` say; None where they name no limit.

    Args:
        headers: the answer's, found in lower case.
    """
    requests = _whole(_header(headers, "x-ratelimit-limit-requests")) or None
    tokens = _whole(_header(headers, "x-ratelimit-limit-tokens")) or None
    if requests is None and tokens is None:
        return None
    resets = [duration_ms(_header(headers, f"x-ratelimit-reset-{limit}") or "") or 0 for limit in LIMITED]
    return RateLimits(
        requests,
        tokens,
        _whole(_header(headers, "x-ratelimit-remaining-requests")),
        _whole(_header(headers, "x-ratelimit-remaining-tokens")),
        min(max(resets), LONGEST_COOL_MS),
    )


def _header(headers: Mapping[str, str], name: str) -> str | None:
    text = headers.get(name)
    return None if text is None or len(text) > LONGEST_HEADER else text


def _whole(text: str | None) -> int | None:
    return None if text is None or _COUNT.fullmatch(text) is None else int(text)


#: The longest text of a header that is read, in characters: finding a duration takes the square of the time.
LONGEST_HEADER = 64
_COUNT = re.compile(r"[0-9]{1,12}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int | None:
    """OpenAI's durations, such as `1s`, `6m0s` or `20ms`, in milliseconds; None where it is none, or long."""
    if len(text) > LONGEST_HEADER:
        return None
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    total = sum(float(number) * _UNIT_MS[unit] for number, unit in parts)
    return round(total) if math.isfinite(total) else None


def _milliseconds(text: str | None) -> int | None:
    try:
        return None if text is None else round(float(text))
    except (ValueError, OverflowError):
        return None


def _retry_after(headers: Mapping[str, str], now: float) -> int | None:
    text = _header(headers, "retry-after")
    if text is None:
        return None
    try:
        return round(float(text) * 1000)
    except (ValueError, OverflowError):
        pass
    until, since = _moment(text), _moment(_header(headers, "date"))
    return None if until is None else round((until - (now if since is None else since)) * 1000)


def _moment(text: str | None) -> float | None:
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None

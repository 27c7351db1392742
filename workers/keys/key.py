"""One API key as a worker sees it: a frozen view of its document, on the server's clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from contracts.messages import Outcome
from infra.vault import Sealed


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may do; None is without limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    max_in_flight: int | None = None

    def lowered_to(self, other: "Limits") -> "Limits":
        """Of each limit the lower."""
        return Limits(
            _lower(self.requests_per_minute, other.requests_per_minute),
            _lower(self.tokens_per_minute, other.tokens_per_minute),
            _lower(self.tokens_per_day, other.tokens_per_day),
            _lower(self.max_in_flight, other.max_in_flight),
        )


@dataclass(frozen=True, slots=True)
class WindowEntry:
    """What was reserved in one second of the server's clock."""

    second: int
    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Key:
    """A key's configuration and state. Times are seconds since the epoch on MongoDB's clock.

    Its `limits` are those that count: of the operator's and those that the provider reports the lower ones.

    A key of a higher `tier` is used only while those of lower ones have no room.
    """

    id: str
    automation_id: str
    alias: str
    base_url: str
    tier: int
    secret: Sealed
    limits: Limits
    status: str
    status_reason: str
    status_until: float | None
    cooled_until: float
    cool_reason: str | None
    window: tuple[WindowEntry, ...]
    day: str
    day_tokens: int
    held_calls: int
    held_tokens: int
    latency_ms: float
    error_rate: float
    failures_in_a_row: int
    last_used_at: float
    denied_models: Mapping[str, float]

    @classmethod
    def from_document(cls, document: Mapping[str, Any], now: float) -> Self:
        """Read a key's document; holds of workers that are gone are left out."""
        held = [hold for hold in document.get("held", ()) if _seconds(hold["until"]) > now]
        health = document.get("health", {})
        return cls(
            id=document["_id"],
            automation_id=document["automation_id"],
            alias=document["alias"],
            base_url=document["base_url"],
            tier=document.get("tier", 0),
            secret=Sealed.from_document(document["secret"]),
            limits=Limits(**document["limits"]).lowered_to(reported_limits(document, now)),
            status=document["status"],
            status_reason=document.get("status_reason", ""),
            status_until=_seconds(document["status_until"]) if document.get("status_until") else None,
            cooled_until=_seconds(document["cooled_until"]) if document.get("cooled_until") else 0.0,
            cool_reason=document.get("cool_reason"),
            window=tuple(WindowEntry(e["s"], e["n"], e["t"]) for e in document.get("window", ())),
            day=document.get("day", ""),
            day_tokens=document.get("day_tokens", 0),
            held_calls=sum(hold["n"] for hold in held),
            held_tokens=sum(hold["t"] for hold in held),
            latency_ms=health.get("latency_ms", 0.0),
            error_rate=health.get("error_rate", 0.0),
            failures_in_a_row=health.get("failures", 0),
            last_used_at=_seconds(document["last_used_at"]) if document.get("last_used_at") else 0.0,
            denied_models={d["model"]: _seconds(d["until"]) for d in document.get("denied_models", ())},
        )

    def is_usable(self, now: float) -> bool:
        """Whether it may be called, limits and cooldown aside; a status whose time is over has ended."""
        if self.status == "active":
            return True
        return self.status == "exhausted" and self.status_until is not None and self.status_until <= now

    def is_refused(self, now: float) -> bool:
        """Whether the provider refuses the key itself: by its status, or so lately that it has none yet."""
        return self.status in {"disabled", "error"} or self._cools_for(Outcome.AUTH_FAILED, now)

    def lacks_quota(self, now: float) -> bool:
        """Whether the provider says that the key's quota is spent, by its status or lately."""
        return not self.is_usable(now) or self._cools_for(Outcome.QUOTA_EXHAUSTED, now)

    def _cools_for(self, reason: Outcome, now: float) -> bool:
        return self.cooled_until > now and self.cool_reason == reason


def reported_limits(document: Mapping[str, Any], now: float) -> Limits:
    """The limits that the provider named when it lately refused; they may be above the operator's."""
    reported = document.get("reported")
    if reported is None or _seconds(reported["until"]) <= now:
        return Limits()
    return Limits(reported["requests_per_minute"], reported["tokens_per_minute"])


def _lower(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()

"""One API key as a worker sees it: a frozen view of its document, on the server's clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, get_args

from contracts.messages import KeyStatus, Outcome
from infra.vault import Sealed
from workers.keys.reported import Reported

#: The largest limit: MongoDB's largest integer.
LARGEST_LIMIT = 2**63 - 1
HIGHEST_TIER = 2
STATUSES: tuple[str, ...] = get_args(KeyStatus)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may do; None is without limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    max_in_flight: int | None = None


@dataclass(frozen=True, slots=True)
class WindowEntry:
    """What was reserved for one model in one second of the server's clock."""

    second: int
    requests: int
    tokens: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class LeasedCall:
    """A call that an automation may make itself with the key, at any time until `until`."""

    until: float
    requests: int
    tokens: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """A key's configuration and state. Times are seconds since the epoch on MongoDB's clock.

    Attributes:
        tier: a key of a higher one is used only while those of lower ones have no room.
        limits: the operator's; what the provider says of a model is in `reported`.
        cause: of a status that is not `active`: `refused`, `failing`, `quota`, `day`, or None (a person's).
        probe_at: when the provider is asked next whether it takes the key again.
        ramp_since: when the key came back: since then it is given more and more calls at a time.
        held_calls: calls that are under way, leased ones among them.
        held_tokens: tokens that were reserved for them.
        reported: what the provider says of its limits, by model.
        leased: calls that automations may make themselves; they count in every minute until they are over.
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
    cause: str | None
    probe_at: float | None
    ramp_since: float
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
    reported: Mapping[str, Reported]
    leased: tuple[LeasedCall, ...] = ()

    @classmethod
    def from_document(cls, document: Mapping[str, Any], now: float) -> Self:
        """Read a key's document; holds of workers that are gone, and leases that are over, are left out.

        A document that can't be read, such as one that was edited by hand, is a key in status `error`, which
        says why: so it is out of use, and keeps none from the automation's other keys.
        """
        try:
            return cls._read(document, now)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            return cls._unreadable(document, f"its document can't be read: {type(error).__name__}: {error}")

    @classmethod
    def _read(cls, document: Mapping[str, Any], now: float) -> Self:
        held = [hold for hold in document.get("held", ()) if _seconds(hold["until"]) > now]
        leased = [lease for lease in document.get("leased", ()) if _seconds(lease["until"]) > now]
        health = document.get("health", {})
        return cls(
            id=document["_id"],
            automation_id=document["automation_id"],
            alias=document["alias"],
            base_url=document["base_url"],
            tier=_tier(document.get("tier", 0)),
            secret=Sealed.from_document(document["secret"]),
            limits=Limits(**{name: _limit(name, value) for name, value in document["limits"].items()}),
            status=_status(document["status"]),
            status_reason=document.get("status_reason", ""),
            status_until=_seconds_or_none(document.get("status_until")),
            cause=document.get("status_cause"),
            probe_at=_seconds_or_none(document.get("probe", {}).get("at")),
            ramp_since=_seconds_or_none(document.get("ramp_since")) or 0.0,
            cooled_until=_seconds_or_none(document.get("cooled_until")) or 0.0,
            cool_reason=document.get("cool_reason"),
            window=tuple(WindowEntry(e["s"], e["n"], e["t"], e["m"]) for e in document.get("window", ())),
            day=document.get("day", ""),
            day_tokens=document.get("day_tokens", 0),
            held_calls=sum(hold["n"] for hold in (*held, *leased)),
            held_tokens=sum(hold["t"] for hold in (*held, *leased)),
            latency_ms=health.get("latency_ms", 0.0),
            error_rate=health.get("error_rate", 0.0),
            failures_in_a_row=health.get("failures", 0),
            last_used_at=_seconds_or_none(document.get("last_used_at")) or 0.0,
            denied_models={d["model"]: _seconds(d["until"]) for d in document.get("denied_models", ())},
            reported={r["model"]: Reported.from_document(r) for r in document.get("reported", ())},
            leased=tuple(LeasedCall(_seconds(e["until"]), e["n"], e["t"], e["m"]) for e in leased),
        )

    @classmethod
    def _unreadable(cls, document: Mapping[str, Any], reason: str) -> Self:
        return cls(
            id=str(document["_id"]),
            automation_id=str(document.get("automation_id")),
            alias=str(document.get("alias")),
            base_url=str(document.get("base_url")),
            tier=0,
            secret=Sealed("", b"", b""),
            limits=Limits(),
            status="error",
            status_reason=reason,
            status_until=None,
            cause=None,
            probe_at=None,
            ramp_since=0.0,
            cooled_until=0.0,
            cool_reason=None,
            window=(),
            day="",
            day_tokens=0,
            held_calls=0,
            held_tokens=0,
            latency_ms=0.0,
            error_rate=0.0,
            failures_in_a_row=0,
            last_used_at=0.0,
            denied_models={},
            reported={},
        )

    def is_usable(self, now: float) -> bool:
        """Whether it may be called, limits and cooldown aside; a status whose time is over has ended."""
        if self.status == "active":
            return True
        return self.status == "exhausted" and self.status_until is not None and self.status_until <= now

    def may_be_called(self, now: float) -> bool:
        """Whether it may be called, limits aside: usable, and not cooled down (`expressions.is_usable`)."""
        return self.is_usable(now) and self.cooled_until <= now

    def is_refused(self, now: float) -> bool:
        """Whether the key itself is out of use, by a person or by the provider: nobody waits for it.

        A key whose calls merely fail is not: it comes back when the provider does.
        """
        if self.status == "error":
            return self.cause != "failing"
        return self.status == "disabled" or self._cools_for(Outcome.AUTH_FAILED, now)

    def is_failing(self) -> bool:
        """Whether it is left out because its calls failed for reasons that are the provider's."""
        return self.status == "error" and self.cause == "failing"

    def lacks_quota(self, now: float) -> bool:
        """Whether the provider says that the key's quota is spent: nobody knows until when."""
        if self.status == "exhausted" and self.cause == "quota":
            return True
        return self._cools_for(Outcome.QUOTA_EXHAUSTED, now)

    def reported_for(self, model: str | None, now: float) -> Reported | None:
        """What the provider says of a model's limits, while it is fresh."""
        reported = self.reported.get(model or "")
        return reported if reported is not None and reported.until > now else None

    def _cools_for(self, reason: Outcome, now: float) -> bool:
        return self.cooled_until > now and self.cool_reason == reason


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def _seconds_or_none(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _tier(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= HIGHEST_TIER:
        raise ValueError(f"tier is not one of 0 to {HIGHEST_TIER}")
    return value


def _status(value: object) -> str:
    if value not in STATUSES:
        raise ValueError(f"status is none of {', '.join(STATUSES)}")
    return str(value)


def _limit(name: str, value: object) -> int | None:
    """A limit that was set by hand may be a double, which MongoDB's shell makes of any number."""
    if value is None:
        return None
    if not isinstance(value, int | float) or not 1 <= value <= LARGEST_LIMIT or value != int(value):
        raise ValueError(f"the limit {name} is not a whole number of 1 or more")
    return int(value)

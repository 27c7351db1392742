"""One budget as a process sees it, and what it decides: pure, on the server's clock.

A budget counts what its calls cost in its current UTC day or month (`spent`, settled) and what calls under
way may cost yet (`held`). `reservations.py` says the same to MongoDB, which has the last word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field

from infra.money import usd

Scope: TypeAlias = Literal["automation", "key", "user"]
Window: TypeAlias = Literal["day", "month"]

SCOPES: tuple[Scope, ...] = ("automation", "key", "user")
WINDOWS: tuple[Window, ...] = ("day", "month")
#: At which percentage of its limit a budget is spent.
SPENT_PERCENT = 100
DEFAULT_SOFT_PERCENT = 80
#: How long it is believed what others hold; then it is looked at again, in seconds.
HELD_FRESH_S = 0.5


def budget_id(scope: Scope, window: Window, automation_id: str, subject: str) -> str:
    """The `_id` of a budget: there is one of a scope, a subject and a window."""
    return f"{scope}/{window}/{automation_id}/{subject}"


def period_at(window: Window, now: float) -> str:
    """The UTC day (YYYY-MM-DD) or month (YYYY-MM) of a moment, in seconds since the epoch."""
    day = datetime.fromtimestamp(now, UTC).date().isoformat()
    return period_of(window, day)


def period_of(window: Window, day: str) -> str:
    """The period that a UTC day (YYYY-MM-DD) is in."""
    return day if window == "day" else day[:7]


def next_period_at(window: Window, now: float) -> float:
    """When the next UTC day or month begins, in seconds since the epoch."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "month":
        day = day.replace(day=28) + timedelta(days=4)
        return day.replace(day=1).timestamp()
    return (day + timedelta(days=1)).timestamp()


def days_of(period: str) -> list[str]:
    """The UTC days of a period, each as YYYY-MM-DD."""
    if len(period) > len("YYYY-MM"):
        return [period]
    first = date.fromisoformat(f"{period}-01")
    days = ((first + timedelta(days=n)) for n in range(31))
    return [day.isoformat() for day in days if day.month == first.month]


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget's document, as it was seen; money in nano-USD.

    Attributes:
        subject: the automation's id, a key's id, or a user's.
        label: its name for people; a key's alias.
        soft_percent: of the limit, from which on an alert is raised.
        hard: whether calls are stopped when it is spent.
        period: that `spent` is of.
        spent: by calls that are settled.
        held: by calls under way.
        seen_at: when this was read, in seconds since the epoch.
    """

    id: str
    scope: Scope
    automation_id: str
    subject: str
    label: str
    window: Window
    limit: Annotated[int, Field(ge=1)]
    soft_percent: Annotated[int, Field(ge=1, le=SPENT_PERCENT)]
    hard: bool
    period: str
    spent: int
    held: int
    seen_at: float

    @classmethod
    def from_document(cls, document: Mapping[str, Any], now: float) -> Self:
        """Read a budget's document; holds of workers that are gone are left out."""
        held = (hold for hold in document.get("held", ()) if hold["until"].timestamp() > now)
        return cls(
            id=document["_id"],
            scope=document["scope"],
            automation_id=document["automation_id"],
            subject=document["subject"],
            label=document["label"],
            window=document["window"],
            limit=document["limit_nanousd"],
            soft_percent=document["soft_percent"],
            hard=document["hard"],
            period=document["period"],
            spent=document["spent_nanousd"],
            held=sum(hold["t"] for hold in held),
            seen_at=now,
        )

    @property
    def name(self) -> str:
        """What people call it."""
        of = "" if self.scope == "automation" else f"{self.scope} "
        return f"{'daily' if self.window == 'day' else 'monthly'} budget of {of}{self.label}"

    def spent_at(self, now: float) -> int:
        """What is spent of the period of that moment; nothing yet where that is a new one."""
        return self.spent if self.period == period_at(self.window, now) else 0

    def charge(self, cost: int) -> int:
        """An estimate, cut to what the budget can ever admit: a dear call needs an untouched budget."""
        return min(cost, self.limit)

    def is_spent(self, cost: int, now: float) -> bool:
        """Whether what is settled leaves no room for a call of that cost until the next period."""
        spent = self.spent_at(now)
        return self.hard and (spent >= self.limit or spent + self.charge(cost) > self.limit)

    def fits(self, cost: int, now: float, taken: int = 0) -> bool:
        """Whether a call fits beside those under way, and others that were just planned for `taken`.

        Where what is held was seen a while ago, it may have come back: MongoDB is to be asked.
        """
        held = self.held if now - self.seen_at < HELD_FRESH_S else 0
        is_free = self.spent_at(now) + held + taken + self.charge(cost) <= self.limit
        return not self.hard or (not self.is_spent(cost, now) and is_free)

    def refusal(self, cost: int, now: float) -> str:
        """Why a call of that cost is refused, for people."""
        spent = self.spent_at(now)
        if spent >= self.limit:
            return f"the {self.name} is spent: {usd(spent)} of {usd(self.limit)}"
        left = usd(self.limit - spent)
        return f"the {self.name} has {left} left, and the call may cost {usd(cost)}"

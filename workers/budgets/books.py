"""What the books say of budgets: what is spent, which thresholds it has crossed, and who is told.

The sums are those of `usage_daily`, which are the ledger's; a month is the sum of its days.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from contracts import names
from contracts.messages import BudgetCrossed
from infra.alerts import Alert, AlertKind, raise_alert, resolve_alerts
from infra.money import usd
from infra.mongo import Document, Mongo, Session
from infra.outbox import outgoing, put_into_outbox
from infra.totals import COST_FIELDS, readable_costs, total_id
from workers.budgets.budget import SPENT_PERCENT, Budget, days_of, period_at
from workers.budgets.reservations import normalise

#: The most that 64 bits hold, and so far more than any limit.
MOST_STORED = 2**63 - 1
#: A budget and the period that is meant.
Place: TypeAlias = tuple[Budget, str]
#: What is spent in nano-USD, by budget and period.
Sums: TypeAlias = Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold of a budget in one of its periods, and what is spent there."""

    budget: Budget
    period: str
    kind: AlertKind
    percent: int
    spent: int

    @property
    def is_crossed(self) -> bool:
        """Whether that much is spent."""
        return self.spent * 100 >= self.budget.limit * self.percent

    @property
    def alert(self) -> Alert:
        """What a person is told."""
        budget = self.budget
        reason = f"{usd(self.spent)} of {usd(budget.limit)} is spent ({self.percent}%): {budget.name}"
        return Alert(self.kind, budget.automation_id, budget.id, budget.label, self.period, reason)

    @property
    def event(self) -> Document:
        """The outbox document of `budget.crossed`."""
        budget = self.budget
        event = BudgetCrossed(
            scope=budget.scope,
            subject=budget.label,
            window=budget.window,
            threshold_percent=self.percent,
            spent_nanousd=self.spent,
            limit_nanousd=budget.limit,
        )
        return outgoing(names.BUDGET_CROSSED, budget.automation_id, event)


def thresholds(budget: Budget, period: str, spent: int) -> list[Threshold]:
    """The thresholds of a budget, the lower one first."""
    both = [
        Threshold(budget, period, AlertKind.BUDGET_SOFT, budget.soft_percent, spent),
        Threshold(budget, period, AlertKind.BUDGET_SPENT, SPENT_PERCENT, spent),
    ]
    return both if budget.soft_percent < SPENT_PERCENT else both[1:]


async def spent_by_books(mongo: Mongo, places: Iterable[Place], session: Session | None = None) -> Sums:
    """What the ledger's totals say is spent.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    by_total: dict[str, list[tuple[str, str]]] = {}
    sums: dict[tuple[str, str], int] = {}
    for budget, period in places:
        sums[budget.id, period] = 0
        for day in days_of(period):
            total = total_id(budget.scope, day, budget.automation_id, budget.subject)
            by_total.setdefault(total, []).append((budget.id, period))
    found = mongo.usage_daily.find({"_id": {"$in": list(by_total)}}, COST_FIELDS, session=session)
    for cost in await readable_costs(found):
        for place in by_total[cost.id]:
            sums[place] += cost.cost_nanousd
    return sums


async def note_crossings(mongo: Mongo, places: Sequence[Place], now: datetime, session: Session) -> None:
    """Raise what was crossed, and resolve what no longer is, in the transaction that they follow from.

    A threshold is told of once a period: again only where it was resolved meanwhile, by a higher limit.

    Args:
        mongo: the database.
        places: budgets with the periods whose spending may have changed.
        now: the time.
        session: of the transaction.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    sums = await spent_by_books(mongo, places, session)
    found = [t for budget, period in places for t in thresholds(budget, period, sums[budget.id, period])]
    ids = [threshold.alert.id for threshold in found]
    standing = {
        alert["_id"]: alert async for alert in mongo.alerts.find({"_id": {"$in": ids}}, session=session)
    }
    for threshold in found:
        alert = standing.get(threshold.alert.id)
        is_open = alert is not None and alert["resolved_at"] is None
        is_current = threshold.period == period_at(threshold.budget.window, now.timestamp())
        if threshold.is_crossed and not is_open and (alert is None or is_current):
            await raise_alert(mongo, threshold.alert, now, session)
            await put_into_outbox(mongo, threshold.event, session)
        elif is_open and not threshold.is_crossed:
            await resolve_alerts(mongo, {"_id": threshold.alert.id}, now, session)


async def raise_to_books(mongo: Mongo, places: Sequence[Place], now: datetime) -> None:
    """Raise what budgets count as spent to what the books say: a worker may have died in between.

    Outside of a transaction, since workers write these documents all the time; safe to repeat.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    current = [(b, period) for b, period in places if period == period_at(b.window, now.timestamp())]
    for (identity, period), spent in (await spent_by_books(mongo, current)).items():
        is_less = {"$or": [{"period": {"$ne": period}}, {"spent_nanousd": {"$lt": min(spent, MOST_STORED)}}]}
        raised = {"$max": ["$spent_nanousd", min(spent, MOST_STORED)]}
        stages: list[Document] = [
            normalise(),
            {"$set": {"spent_nanousd": {"$cond": [{"$eq": ["$period", period]}, raised, "$spent_nanousd"]}}},
        ]
        await mongo.budgets.update_one({"_id": identity, **is_less}, stages)


async def set_to_books(mongo: Mongo, budgets: Sequence[Budget], now: datetime) -> None:
    """Have budgets count what the books say, where they count more; workers' calls follow as they are booked.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    places = [(budget, period_at(budget.window, now.timestamp())) for budget in budgets]
    for (identity, period), spent in (await spent_by_books(mongo, places)).items():
        await mongo.budgets.update_one(
            {"_id": identity, "period": period}, {"$set": {"spent_nanousd": min(spent, MOST_STORED)}}
        )

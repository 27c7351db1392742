"""Budgets in the ledger's transaction: thresholds that new rows cross, and models without a price."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from infra.alerts import Alert, AlertKind, raise_alert
from infra.mongo import Document, Mongo, Session
from infra.prices import is_priced
from workers.accounting.totals import subjects
from workers.budgets.books import Place, note_crossings, raise_to_books
from workers.budgets.budget import SCOPES, WINDOWS, Scope, budget_id, period_of
from workers.budgets.stored_budgets import readable_budgets

#: Models of an automation and UTC day that have an alert of their own because nobody knows their price.
MOST_UNPRICED = 20


async def note_spending(mongo: Mongo, rows: Sequence[Document], now: datetime, session: Session) -> None:
    """Tell of the thresholds that new ledger rows cross, and of models whose price nobody knows.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    await note_unpriced(mongo, rows, now, session)
    if places := await budgets_of(mongo, rows, now, session):
        await note_crossings(mongo, places, now, session)


async def count_spending(mongo: Mongo, rows: Sequence[Document], now: datetime) -> None:
    """Have budgets count at least what the books say of new ledger rows; after their transaction.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    if places := await budgets_of(mongo, rows, now):
        await raise_to_books(mongo, places, now)


async def budgets_of(
    mongo: Mongo, rows: Sequence[Document], now: datetime, session: Session | None = None
) -> list[Place]:
    """The budgets that ledger rows count in, with the periods that they are of.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    among = {"automation_id": {"$in": list({row["automation_id"] for row in rows})}}
    budgeted = set(await mongo.budgets.distinct("automation_id", among, session=session))
    days = budget_days(row for row in rows if row["automation_id"] in budgeted)
    if not days:
        return []
    found = mongo.budgets.find({"_id": {"$in": list(days)}}, session=session)
    return [
        (budget, period)
        for budget in await readable_budgets(found, now.timestamp())
        for period in sorted({period_of(budget.window, day) for day in days[budget.id]})
    ]


def budget_days(rows: Iterable[Document]) -> dict[str, set[str]]:
    """The `_id`s of budgets that rows would count in, if there are such, and the UTC days of those rows."""
    scopes: dict[str, Scope] = {scope: scope for scope in SCOPES}
    spent = {
        (scope, row["automation_id"], subject, row["day"])
        for row in rows
        for dimension, subject in subjects(row)
        if (scope := scopes.get(dimension)) is not None
    }
    days: dict[str, set[str]] = {}
    for scope, automation_id, subject, day in spent:
        for window in WINDOWS:
            days.setdefault(budget_id(scope, window, automation_id, subject), set()).add(day)
    return days


async def note_unpriced(mongo: Mongo, rows: Sequence[Document], now: datetime, session: Session) -> None:
    """Raise an alert a model and UTC day, unless somebody has set its price since; few of an automation.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    unpriced = {(row["model"], row["day"]): row["automation_id"] for row in rows if not row["price_known"]}
    if not unpriced:
        return
    by_hand = {document["_id"]: document async for document in mongo.prices.find(session=session)}
    by_day: dict[tuple[str, str], list[str]] = {}
    for (model, day), automation_id in unpriced.items():
        if not is_priced(model, by_hand):
            by_day.setdefault((automation_id, day), []).append(model)
    for (automation_id, day), models in by_day.items():
        for alert in await _of_models(mongo, automation_id, day, models, session):
            await raise_alert(mongo, alert, now, session)


async def _of_models(
    mongo: Mongo, automation_id: str, day: str, models: Sequence[str], session: Session
) -> list[Alert]:
    """An alert for each model, as long as the automation's day has few; then one for all others together."""
    alerts = [_unpriced(automation_id, model, model, day) for model in models]
    ids = {"_id": {"$in": [alert.id for alert in alerts]}}
    standing = {alert["_id"] async for alert in mongo.alerts.find(ids, {"_id": 1}, session=session)}
    of_day = {"kind": AlertKind.UNKNOWN_PRICE.value, "automation_id": automation_id, "window": day}
    room = max(0, MOST_UNPRICED - await mongo.alerts.count_documents(of_day, session=session))
    new = [alert for alert in alerts if alert.id not in standing]
    told = [alert for alert in alerts if alert.id in standing] + new[:room]
    if new[room:]:
        told.append(_unpriced(automation_id, f"{automation_id}/others", "further models", day))
    return told


def _unpriced(automation_id: str, subject: str, model: str, day: str) -> Alert:
    reason = f"calls count no cost, since the price of {model} is not known; `keyway prices set`"
    return Alert(AlertKind.UNKNOWN_PRICE, automation_id, subject, model, day, reason)

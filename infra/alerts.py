"""Alerts: raised once for a kind, a subject and a window, and resolved when the reason is over.

They are written in the transaction of what they tell of, so that there is never one without the other; and
so is the notice of each change, which accounting delivers.
"""

from collections.abc import AsyncIterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial

from infra.alert_notices import RAISED, RESOLVED, add_notice
from infra.mongo import Document, Mongo, Session
from infra.stored_documents import StoredDocuments


class Severity(StrEnum):
    """How soon a person should look."""

    CRITICAL = "critical"
    WARNING = "warning"


class AlertKind(StrEnum):
    """What an alert is about."""

    KEY_ERROR = "key_error"
    KEY_EXHAUSTED = "key_exhausted"
    POOL_LOW = "pool_low"
    POOL_EMPTY = "pool_empty"
    BUDGET_SOFT = "budget_soft"
    BUDGET_SPENT = "budget_spent"
    UNKNOWN_PRICE = "unknown_price"
    LANE_OLD = "lane_old"
    DEAD_LETTERS = "dead_letters"
    NO_HEARTBEAT = "no_heartbeat"
    LEDGER_LAG = "ledger_lag"

    @property
    def severity(self) -> Severity:
        """Critical is what stops an automation, or hides what happens."""
        return Severity.CRITICAL if self in CRITICAL else Severity.WARNING


CRITICAL = frozenset(
    {
        AlertKind.POOL_EMPTY,
        AlertKind.BUDGET_SPENT,
        AlertKind.LANE_OLD,
        AlertKind.NO_HEARTBEAT,
        AlertKind.LEDGER_LAG,
    }
)
#: What is over by itself when its UTC day or month is.
WINDOWED = (AlertKind.BUDGET_SOFT, AlertKind.BUDGET_SPENT, AlertKind.UNKNOWN_PRICE)


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should know.

    Attributes:
        kind: what it is about.
        automation_id: whose trouble it is; None: everybody's.
        subject: the id of what is in trouble, such as a key's.
        label: its name for people.
        window: in which it is raised once, such as the UTC day.
        reason: in a few words.
    """

    kind: AlertKind
    automation_id: str | None
    subject: str
    label: str
    window: str
    reason: str

    @property
    def id(self) -> str:
        """Its `_id`: it is there once."""
        return f"{self.kind}/{self.subject}/{self.window}"


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """What the document of an alert holds; its `_id` is that of the `Alert`."""

    kind: AlertKind
    automation_id: str | None
    subject: str
    label: str
    window: str
    reason: str
    raised_at: datetime
    last_at: datetime
    times: int
    resolved_at: datetime | None


_DOCUMENTS = StoredDocuments("alerts", StoredAlert)


async def readable_alerts(found: AsyncIterable[Document]) -> list[Document]:
    """Documents of alerts without those that can't be read, which are logged.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    return _DOCUMENTS.sound([document async for document in found])


async def raise_alert(mongo: Mongo, alert: Alert, at: datetime, session: Session) -> None:
    """Raise an alert, or open it again within its window; of one that is open, note that it goes on.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    standing = await mongo.alerts.find_one({"_id": alert.id}, {"resolved_at": 1, "times": 1}, session=session)
    is_news = standing is None or standing["resolved_at"] is not None
    update: Document = {
        "$setOnInsert": {
            "kind": alert.kind.value,
            "automation_id": alert.automation_id,
            "subject": alert.subject,
            "label": alert.label,
            "window": alert.window,
            "raised_at": at,
        },
        "$set": {"reason": alert.reason, "last_at": at, "resolved_at": None},
        "$inc": {"times": int(is_news)},
    }
    await mongo.alerts.update_one({"_id": alert.id}, update, upsert=True, session=session)
    if is_news:
        times = 1 + (standing["times"] if standing else 0)
        told = {
            "_id": alert.id,
            "kind": alert.kind.value,
            "automation_id": alert.automation_id,
            "label": alert.label,
            "reason": alert.reason,
            "times": times,
        }
        await add_notice(mongo, told, RAISED, at, session)


async def resolve_alerts(mongo: Mongo, query: Document, at: datetime, session: Session) -> int:
    """Note of open alerts that their trouble is over.

    Args:
        mongo: the database.
        query: which of the open ones, such as `{"subject": …}`.
        at: when.
        session: of the transaction that they are over by.

    Returns:
        How many were resolved.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    alerts = await readable_alerts(mongo.alerts.find({**query, "resolved_at": None}, session=session))
    if alerts:
        over = {"_id": {"$in": [alert["_id"] for alert in alerts]}}
        await mongo.alerts.update_many(over, {"$set": {"resolved_at": at}}, session=session)
        for alert in alerts:
            await add_notice(mongo, alert, RESOLVED, at, session)
    return len(alerts)


async def resolve_over(mongo: Mongo, at: datetime) -> int:
    """Note that what was of a UTC day or month that is over is over too.

    Returns:
        How many alerts were resolved.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    day = day_of(at)
    kinds = [kind.value for kind in WINDOWED]
    over = {"kind": {"$in": kinds}, "window": {"$nin": [day, day[:7]]}}
    if await mongo.alerts.find_one({**over, "resolved_at": None}, {"_id": 1}) is None:
        return 0
    return await mongo.transaction(partial(resolve_alerts, mongo, over, at))


def day_of(at: datetime) -> str:
    """The UTC day of a time, which is the window of most alerts."""
    return at.astimezone(UTC).date().isoformat()


async def list_alerts(mongo: Mongo, *, everything: bool, limit: int) -> list[Document]:
    """Alerts as people and scripts see them, the newest first.

    Args:
        mongo: the database.
        everything: resolved ones too.
        limit: so many at the most.

    Returns:
        Their documents, with `severity`, and with `delivery` and `delivery_attempts` of what was told last.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    query: Document = {} if everything else {"resolved_at": None}
    found = mongo.alerts.find(query).sort("raised_at", -1).limit(limit)
    alerts = await readable_alerts(found)
    stages: list[Document] = [
        {"$match": {"alert_id": {"$in": [alert["_id"] for alert in alerts]}}},
        {"$sort": {"at": 1}},
        {
            "$group": {
                "_id": "$alert_id",
                "delivery": {"$last": "$state"},
                "delivery_attempts": {"$last": "$attempts"},
            }
        },
    ]
    last = {notice.pop("_id"): notice async for notice in mongo.notices.aggregate(stages)}
    untold = {"delivery": None, "delivery_attempts": 0}
    return [
        {**alert, **last.get(alert["_id"], untold), "severity": AlertKind(alert["kind"]).severity.value}
        for alert in alerts
    ]

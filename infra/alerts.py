"""Alerts: raised once for a kind, a subject and a window, and resolved when the reason is over.

They are written in the transaction of what they tell of, so that there is never one without the other.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from infra.mongo import Document, Mongo, Session


class AlertKind(StrEnum):
    """What an alert is about."""

    KEY_ERROR = "key_error"
    KEY_EXHAUSTED = "key_exhausted"
    BUDGET_SOFT = "budget_soft"
    BUDGET_SPENT = "budget_spent"
    UNKNOWN_PRICE = "unknown_price"


#: What is over by itself when its UTC day or month is.
WINDOWED = (AlertKind.BUDGET_SOFT, AlertKind.BUDGET_SPENT, AlertKind.UNKNOWN_PRICE)


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should know.

    Attributes:
        kind: what it is about.
        automation_id: whose trouble it is.
        subject: the id of what is in trouble, such as a key's.
        label: its name for people.
        window: in which it is raised once, such as the UTC day.
        reason: in a few words.
    """

    kind: AlertKind
    automation_id: str
    subject: str
    label: str
    window: str
    reason: str

    @property
    def id(self) -> str:
        """Its `_id`: it is there once."""
        return f"{self.kind}/{self.subject}/{self.window}"


async def raise_alert(mongo: Mongo, alert: Alert, at: datetime, session: Session) -> None:
    """Raise an alert, or open it again within its window.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
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
        "$inc": {"times": 1},
    }
    await mongo.alerts.update_one({"_id": alert.id}, update, upsert=True, session=session)


async def resolve_alerts(mongo: Mongo, subject: str, at: datetime, session: Session) -> None:
    """Note that a subject's trouble is over.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    await mongo.alerts.update_many(
        {"subject": subject, "resolved_at": None}, {"$set": {"resolved_at": at}}, session=session
    )


async def resolve_over(mongo: Mongo, at: datetime) -> int:
    """Note that what was of a UTC day or month that is over is over too.

    Returns:
        How many alerts were resolved.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    day = at.astimezone(UTC).date().isoformat()
    kinds = [kind.value for kind in WINDOWED]
    over = {"kind": {"$in": kinds}, "window": {"$nin": [day, day[:7]]}, "resolved_at": None}
    return (await mongo.alerts.update_many(over, {"$set": {"resolved_at": at}})).modified_count

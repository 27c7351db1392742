"""Notices: what is to be told of alerts, written in their transaction, and kept until every target has it."""

import secrets
from datetime import datetime, timedelta

from infra.mongo import Document, Mongo, Session

#: What a notice tells of.
RAISED, RESOLVED = "raised", "resolved"
#: What becomes of a notice: it waits, every target has it, it was given up, or there was no target.
WAITING, DELIVERED, GIVEN_UP, NO_TARGET = "waiting", "delivered", "given_up", "no_target"
#: Seconds for which the second raising in a window is held back; each further one twice as long, to the most.
FIRST_HOLD_S, LONGEST_HOLD_S = 30.0, 900.0


def held_back_s(times: int) -> float:
    """For how many seconds a change is held back, so that what comes and goes is not told of each time.

    Args:
        times: how often the alert was raised in its window.
    """
    if times < 2:
        return 0.0
    return min(FIRST_HOLD_S * 2.0 ** min(times - 2, 30), LONGEST_HOLD_S)


async def add_notice(mongo: Mongo, alert: Document, change: str, at: datetime, session: Session) -> None:
    """Have a change of an alert told of; one that takes back what nobody was told of yet cancels it.

    Args:
        mongo: the database.
        alert: its document.
        change: `RAISED` or `RESOLVED`.
        at: when.
        session: of the transaction of that change.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    held = {"alert_id": alert["_id"], "state": WAITING, "attempts": 0, "due_at": {"$gt": at}}
    if (await mongo.notices.delete_one(held, session=session)).deleted_count:
        return
    notice = {
        "_id": secrets.token_hex(12),
        "alert_id": alert["_id"],
        "kind": alert["kind"],
        "automation_id": alert["automation_id"],
        "label": alert["label"],
        "reason": alert["reason"],
        "change": change,
        "at": at,
        "due_at": at + timedelta(seconds=held_back_s(alert["times"])),
        "state": WAITING,
        "attempts": 0,
        "told": [],
        "ended_at": None,
    }
    await mongo.notices.insert_one(notice, session=session)

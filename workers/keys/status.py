"""A change of a key's status: what it writes, and the event that tells of it.

active <-> exhausted, active -> error, and disabled, which only a person sets and lifts (Key life).
"""

from dataclasses import dataclass
from datetime import datetime

from contracts import names
from contracts.messages import KeyStatus, KeyStatusChanged
from infra.mongo import Document, Mongo, Session
from infra.outbox import outgoing

#: Changes of status that a key's history keeps.
HISTORY_LENGTH = 200


@dataclass(frozen=True, slots=True)
class StatusChange:
    """What a key's status becomes, why, until when (None: until something happens), by whom, and when."""

    to: KeyStatus
    reason: str
    until: datetime | None
    actor: str
    at: datetime

    def update(self, key: Document) -> Document:
        """The update of the key's document; an `active` key starts without cooldown and failures."""
        entry = {
            "from": key["status"],
            "to": self.to,
            "reason": self.reason,
            "until": self.until,
            "actor": self.actor,
            "at": self.at,
        }
        update: Document = {
            "$set": {
                "status": self.to,
                "status_reason": self.reason,
                "status_until": self.until,
                "status_since": self.at,
                "status_actor": self.actor,
            },
            "$push": {"history": {"$each": [entry], "$slice": -HISTORY_LENGTH}},
        }
        if self.to == "active":
            update["$set"]["health.failures"] = 0
            update["$unset"] = {"cooled_until": ""}
        return update

    def event(self, key: Document) -> Document:
        """The outbox document of `key.status_changed`."""
        event = KeyStatusChanged(
            key_id=key["_id"],
            alias=key["alias"],
            from_=key["status"],
            to=self.to,
            reason=self.reason,
            until=self.until,
            actor=self.actor,
            occurred_at=self.at,
        )
        return outgoing(names.KEY_STATUS_CHANGED, key["automation_id"], event)


async def change_status(mongo: Mongo, key: Document, change: StatusChange, session: Session) -> bool:
    """Write a change and its event, unless the key's status is no longer what `key` says.

    Args:
        mongo: the database.
        key: the key's document, with `_id`, `automation_id`, `alias` and `status`.
        change: what to write.
        session: of the transaction that it is part of.

    Returns:
        Whether it was written.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    written = await mongo.keys.update_one(
        {"_id": key["_id"], "status": key["status"]}, change.update(key), session=session
    )
    if written.matched_count:
        await mongo.outbox.insert_one(change.event(key), session=session)
    return bool(written.matched_count)

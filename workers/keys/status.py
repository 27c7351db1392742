"""A change of a key's status: what it writes, the event that tells of it, and the alert.

active <-> exhausted, active -> error, and disabled, which only a person sets and lifts (Key life).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from contracts import names
from contracts.messages import KeyStatus, KeyStatusChanged
from infra.alerts import Alert, AlertKind, day_of, raise_alert, resolve_alerts
from infra.mongo import Document, Mongo, Session
from infra.outbox import outgoing, put_into_outbox
from workers.keys.limits import CIRCUIT_FAILURES
from workers.keys.probe_schedule import first_probe

#: Why a key stopped: the provider refuses it, its calls fail, its quota is spent, its day's tokens are.
Cause: TypeAlias = Literal["refused", "failing", "quota", "day"]

#: Changes of status that a key's history keeps.
HISTORY_LENGTH = 200

ALERTS: dict[str, AlertKind] = {"error": AlertKind.KEY_ERROR, "exhausted": AlertKind.KEY_EXHAUSTED}


@dataclass(frozen=True, slots=True)
class StatusChange:
    """What a key's status becomes.

    Attributes:
        to: the new status.
        reason: in a few words, for people.
        until: when it ends by itself; None: when something happens.
        actor: who changed it.
        at: when.
        cause: why a key stops, where no person stopped it: it is probed by that.
        half_open: whether an `active` key still has to show that it works: it is tried with one call, and
            then given more and more.
    """

    to: KeyStatus
    reason: str
    until: datetime | None
    actor: str
    at: datetime
    cause: Cause | None = None
    half_open: bool = False

    def update(self, key: Document) -> Document:
        """The update of the key's document; an `active` key starts without cooldown."""
        entry = {
            "from": key["status"],
            "to": self.to,
            "reason": self.reason,
            "until": self.until,
            "actor": self.actor,
            "at": self.at,
        }
        written: Document = {
            "status": self.to,
            "status_reason": self.reason,
            "status_until": self.until,
            "status_since": self.at,
            "status_actor": self.actor,
            "status_cause": self.cause,
        }
        update: Document = {
            "$set": written,
            "$push": {"history": {"$each": [entry], "$slice": -HISTORY_LENGTH}},
        }
        if self.to == "active":
            written["health.failures"] = CIRCUIT_FAILURES if self.half_open else 0
            update["$unset"] = {"cooled_until": "", "ramp_since": ""}
            # The interval is kept, so that one that falls back at once is probed less and less.
            update["$unset"]["probe.at" if self.half_open else "probe"] = ""
        elif (probe := first_probe(self.cause, key, self.at)) is not None:
            written["probe"] = probe
        else:
            update["$unset"] = {"probe": ""}
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

    def alert(self, key: Document) -> Alert | None:
        """What a person should know of it: one alert a key and UTC day."""
        kind = ALERTS.get(self.to)
        if kind is None:
            return None
        return Alert(kind, key["automation_id"], key["_id"], key["alias"], day_of(self.at), self.reason)


async def revoke_leases(mongo: Mongo, key_id: str, session: Session) -> None:
    """Mark a key's open leases: whoever has one keeps the key itself, and is charged all the same.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    revoked = [{"$set": {"status": "revoked", "revoked_at": "$$NOW"}}]
    await mongo.leases.update_many({"key_id": key_id, "status": "open"}, revoked, session=session)


async def change_status(mongo: Mongo, key: Document, change: StatusChange, session: Session) -> bool:
    """Write a change with its event and alert, unless the key's status is no longer what `key` says.

    Args:
        mongo: the database.
        key: the key's document, with at least `CHANGE_FIELDS`.
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
    if not written.matched_count:
        return False
    await put_into_outbox(mongo, change.event(key), session)
    await resolve_alerts(mongo, {"subject": key["_id"]}, change.at, session)
    if change.to == "disabled":
        await revoke_leases(mongo, key["_id"], session)
    if (alert := change.alert(key)) is not None:
        await raise_alert(mongo, alert, change.at, session)
    return True


#: What a change needs of a key's document.
CHANGE_FIELDS = {"automation_id": 1, "alias": 1, "status": 1, "status_since": 1, "probe": 1}

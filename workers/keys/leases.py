"""Leases in a key's document: a call that an automation makes itself, counted against the key's limits.

A lease stands there in `leased`, under its id. Nobody knows when its call is made: so it counts as one in
flight, and in every minute, until its use is reported or can't be any more. It lapses by itself.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from infra.mongo import Document, Mongo
from workers.keys.expressions import TODAY, held_plus, live_holds, normalise, window_plus

#: What a lease's use may be told late, and its last call count in its minute (`limits.SPAN_S`), in seconds.
GRACE_S = 90
#: How much later it lapses: accounting charges it first, unless it is away, in seconds.
LAPSE_S = 30
#: For how long one can still see what became of a lease.
KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class LeasedKey:
    """What a key's document needs to know of a lease.

    Attributes:
        id: the lease's.
        automation_id: whose it is.
        key_id: of the key that is lent.
        model: that it is for; empty where none was named.
        tokens: that it is for.
        granted_at: on MongoDB's clock.
        expires_at: no call begins after it.
    """

    id: str
    automation_id: str
    key_id: str
    model: str
    tokens: int
    granted_at: datetime
    expires_at: datetime

    @classmethod
    def from_document(cls, lease: Document) -> Self:
        """Read it from the lease's own document."""
        return cls(
            id=lease["_id"],
            automation_id=lease["automation_id"],
            key_id=lease["key_id"],
            model=lease["model"] or "",
            tokens=lease["tokens"],
            granted_at=lease["granted_at"],
            expires_at=lease["expires_at"],
        )

    @property
    def lapses_at(self) -> datetime:
        """When it counts no more, whatever became of it."""
        return self.expires_at + timedelta(seconds=GRACE_S + LAPSE_S)


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation of one call: what a lease takes over from the worker that reserved it."""

    hold: str
    second: int
    tokens: int
    model: str


def lease_pipeline(lease: LeasedKey, held: Held | None) -> list[Document]:
    """The update that has a lease count, in the place of the reservation that it comes from."""
    others = {"$filter": {"input": "$leased", "cond": {"$ne": ["$$this.id", lease.id]}}}
    entry = {
        "id": lease.id,
        "m": {"$literal": lease.model},
        "n": 1,
        "t": lease.tokens,
        "until": lease.lapses_at,
    }
    changes: Document = {"leased": {"$concatArrays": [others, [entry]]}}
    if held is not None:
        changes["held"] = held_plus(held.hold, -1, -held.tokens)
        changes["window"] = _without(held)
    return [normalise(), {"$set": changes}]


def _without(held: Held) -> Document:
    """The window without a reservation of one call."""
    here = {"$and": [{"$eq": ["$$this.s", held.second]}, {"$eq": ["$$this.m", {"$literal": held.model}]}]}
    less = {
        "n": {"$max": [0, {"$subtract": ["$$this.n", 1]}]},
        "t": {"$max": [0, {"$subtract": ["$$this.t", held.tokens]}]},
    }
    changed = {"$cond": [here, {"$mergeObjects": ["$$this", less]}, "$$this"]}
    return {"$map": {"input": "$window", "in": changed}}


def end_pipeline(lease: LeasedKey, used: int, *, in_minute: bool) -> list[Document]:
    """The update that ends a lease, once: where it stands there no more, nothing changes."""
    is_there = {"$in": [lease.id, "$leased.id"]}
    day = lease.granted_at.astimezone(UTC).date().isoformat()
    is_charged = {"$and": [is_there, {"$eq": [TODAY, day]}]}
    changes: Document = {
        "leased": {"$filter": {"input": "$leased", "cond": {"$ne": ["$$this.id", lease.id]}}},
        # Of the day of the grant, as in the ledger.
        "day_tokens": {"$add": ["$day_tokens", {"$cond": [is_charged, used, 0]}]},
    }
    if in_minute:
        changes["window"] = {"$cond": [is_there, window_plus(lease.model, 1, used), "$window"]}
    return [normalise(), {"$set": changes}]


async def begin_lease(mongo: Mongo, lease: LeasedKey, held: Held | None = None) -> bool:
    """Have a lease count; harmless to repeat.

    Args:
        mongo: where the key is.
        lease: what is lent.
        held: the reservation that it comes from, which it takes the place of.

    Returns:
        Whether it may be given away: not where the key was stopped or removed meanwhile.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    serving = {"_id": lease.key_id, "status": {"$in": ["active", "exhausted"]}}
    written = await mongo.keys.update_one(serving, lease_pipeline(lease, held))
    return bool(written.matched_count)


async def end_lease(mongo: Mongo, lease: LeasedKey, used: int, *, in_minute: bool = False) -> None:
    """End a lease and count what was used, once; harmless to repeat.

    Args:
        mongo: where the key is.
        lease: that ends.
        used: tokens, for the key's day.
        in_minute: whether its call may have been made just now.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    await mongo.keys.update_one({"_id": lease.key_id}, end_pipeline(lease, used, in_minute=in_minute))
    lent: Document = {"$pull": {"held": {"w": lease.id}}}
    await mongo.automations.update_one({"_id": lease.automation_id}, lent)
    await mongo.budgets.update_many({"automation_id": lease.automation_id, "held.w": lease.id}, lent)


async def begin_slot(mongo: Mongo, lease: LeasedKey, hold: str) -> None:
    """Have a lease hold the slot of its automation's own cap that a worker took for it.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    entry = {"w": lease.id, "n": 1, "t": 0, "until": lease.lapses_at}
    stages: list[Document] = [
        {"$set": {"held": live_holds()}},
        {"$set": {"held": held_plus(hold, -1, 0)}},
        {"$set": {"held": {"$concatArrays": ["$held", [entry]]}}},
    ]
    await mongo.automations_fast.update_one({"_id": lease.automation_id}, stages)

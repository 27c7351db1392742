"""What may be told of a key: its state, what is used of its limits, and four characters of its secret."""

import re
from dataclasses import asdict, dataclass
from enum import StrEnum

from infra.errors import NotFoundError
from infra.mongo import Document, Mongo
from workers.keys.key import Key
from workers.keys.limits import room, used_in_window, used_today, utilisation
from workers.keys.reported import lower_limits


class Tier(StrEnum):
    """Which keys come first."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    BACKUP = "backup"


TIERS = list(Tier)


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as it is now: its document without the fingerprint, and the view that workers have of it."""

    document: Document
    key: Key
    #: MongoDB's time, in seconds since the epoch.
    now: float

    @property
    def fields(self) -> dict[str, object]:
        """What scripts are told of it."""
        return public_fields(self.document, self.key, self.now)


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys are meant; what is None narrows nothing.

    Attributes:
        automation_id: whose.
        status: in which status.
        text: a part of the automation's id, the alias or the last four characters, in whatever case.
        after: automation and alias of the last key of the page before.
    """

    automation_id: str | None = None
    status: str | None = None
    text: str | None = None
    after: tuple[str, str] | None = None

    def query(self) -> Document:
        """The same for MongoDB."""
        conditions: list[Document] = []
        if self.automation_id is not None:
            conditions.append({"automation_id": {"$eq": self.automation_id}})
        if self.status is not None:
            conditions.append({"status": {"$eq": self.status}})
        if self.text is not None:
            part = {"$regex": re.escape(self.text), "$options": "i"}
            conditions.append({"$or": [{name: part} for name in ("automation_id", "alias", "last_four")]})
        if self.after is not None:
            automation_id, alias = self.after
            same = {"automation_id": automation_id, "alias": {"$gt": alias}}
            conditions.append({"$or": [{"automation_id": {"$gt": automation_id}}, same]})
        return {"$and": conditions} if conditions else {}


async def find_keys(
    mongo: Mongo, wanted: KeyFilter, *, most: int | None, history: bool = False
) -> list[KeyView]:
    """Keys, by automation and alias.

    Args:
        mongo: the database.
        wanted: which.
        most: how many at the most; None: all.
        history: whether their changes of status are needed; else there are none in the documents.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    stages: list[Document] = [
        {"$match": wanted.query()},
        {"$sort": {"automation_id": 1, "alias": 1}},
        *([] if most is None else [{"$limit": most}]),
        {"$unset": ["fingerprint"] if history else ["fingerprint", "history"]},
        {"$set": {"server_time": "$$NOW"}},
    ]
    return [_view(document) async for document in mongo.keys.aggregate(stages)]


async def find_key(mongo: Mongo, automation_id: str, alias: str) -> KeyView:
    """One key, with its history.

    Raises:
        NotFoundError: there is no such key.
        PyMongoError: MongoDB is away or refused.
    """
    view = await _find_one(mongo, {"automation_id": {"$eq": automation_id}, "alias": {"$eq": alias}})
    if view is None:
        raise NotFoundError(f"{automation_id} has no key {alias}; see `keyway keys list {automation_id}`")
    return view


async def key_of_id(mongo: Mongo, key_id: str) -> KeyView | None:
    """One key, with its history; None: there is no such key.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    return await _find_one(mongo, {"_id": {"$eq": key_id}})


def warnings(key: Key, now: float) -> list[str]:
    """Where the provider allows less than the operator thinks."""
    limits = key.limits
    return lower_limits(limits.requests_per_minute, limits.tokens_per_minute, key.reported, now)


def public_fields(document: Document, key: Key, now: float) -> dict[str, object]:
    """What scripts are told of one key; nothing of its secret but the last four characters."""
    requests, tokens = used_in_window(key, now)
    return {
        "key_id": key.id,
        "automation_id": key.automation_id,
        "alias": key.alias,
        "last_four": document.get("last_four", ""),
        "base_url": key.base_url,
        "tier": TIERS[key.tier].value,
        "status": key.status,
        "status_reason": key.status_reason,
        "status_since": document.get("status_since"),
        "status_until": document.get("status_until"),
        "next_probe_at": None if key.probe_at is None else document["probe"]["at"],
        "limits": asdict(key.limits),
        "warnings": warnings(key, now),
        "utilisation": round(utilisation(key, room(key, now)), 4),
        "minute_requests": requests,
        "minute_tokens": tokens,
        "day_tokens": used_today(key, now),
        "in_flight": key.held_calls,
        "latency_ms": round(key.latency_ms, 1),
        "error_rate": round(key.error_rate, 4),
        "failures_in_a_row": key.failures_in_a_row,
        "history": document.get("history", []),
    }


async def _find_one(mongo: Mongo, match: Document) -> KeyView | None:
    stages: list[Document] = [
        {"$match": match},
        {"$unset": "fingerprint"},
        {"$set": {"server_time": "$$NOW"}},
    ]
    async for document in mongo.keys.aggregate(stages):
        return _view(document)
    return None


def _view(document: Document) -> KeyView:
    now = document.pop("server_time").timestamp()
    return KeyView(document, Key.from_document(document, now), now)

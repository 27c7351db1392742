"""Keys as the console lists them: a part of them in an order, each with what it cost today."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra.mongo import Document, Mongo
from infra.totals import sound_totals, total_id
from workers.keys.facts import KeyFilter, KeyView
from workers.keys.key import Key

#: What keys can be ordered by, and the fields that say it.
ORDERS: dict[str, tuple[str, ...]] = {
    "key": ("alias", "automation_id"),
    "automation": ("automation_id", "alias"),
    "status": ("status", "automation_id", "alias"),
    "latency": ("health.latency_ms", "automation_id", "alias"),
}
#: Calls whose latencies are shown of one key, and for how long back.
MOST_CALLS, CALLS_SINCE = 300, timedelta(hours=1)
#: Calls that a sparkline has, and those that are looked at for all sparklines of a page.
SPARKED, MOST_SPARKED = 40, 5_000


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key, and what the books say of its UTC day."""

    view: KeyView
    calls_today: int
    cost_today_nanousd: int


class KeyTable:
    """Reads parts of the list of keys."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def read(
        self, wanted: KeyFilter, *, order: str, descending: bool, skip: int, most: int
    ) -> tuple[list[KeyRow], int]:
        """A part of the keys that are asked for, and how many there are in all.

        Args:
            wanted: which keys.
            order: one of `ORDERS`.
            descending: whether the last come first.
            skip: how many to leave out before it.
            most: how many it has at the most.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        query = wanted.query()
        direction = -1 if descending else 1
        stages: list[Document] = [
            {"$match": query},
            {"$sort": dict.fromkeys((*ORDERS[order], "_id"), direction)},
            {"$skip": skip},
            {"$limit": most},
            {"$unset": ["fingerprint", "history"]},
            {"$set": {"server_time": "$$NOW"}},
        ]
        total = await self._mongo.keys.count_documents(query)
        views = [_view(document) async for document in self._mongo.keys.aggregate(stages)]
        return await self._with_costs(views), total

    async def latencies(self, view: KeyView) -> list[tuple[datetime, int]]:
        """When a key's last calls that succeeded ended, and how long they took in milliseconds.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        since = datetime.fromtimestamp(view.now, UTC) - CALLS_SINCE
        calls = {
            "automation_id": view.key.automation_id,
            "occurred_at": {"$gt": since},
            "key_id": view.key.id,
            "outcome": "ok",
        }
        found = self._mongo.usage.find(calls, {"_id": 0, "occurred_at": 1, "latency_ms": 1})
        rows = [row async for row in found.sort("occurred_at", -1).limit(MOST_CALLS)]
        return [(row["occurred_at"], row["latency_ms"]) for row in reversed(rows)]

    async def sparklines(self, views: Sequence[KeyView]) -> dict[str, list[int]]:
        """How long the last calls of some keys took that succeeded, in milliseconds, the oldest first.

        Only so many of their automations' last calls are looked at, `MOST_SPARKED` in all, so that it takes
        as long however much is called.

        Returns:
            By key id; a key that was not called lately is not there.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        by_automation: dict[str, list[KeyView]] = {}
        for view in views:
            by_automation.setdefault(view.key.automation_id, []).append(view)

        async def read(automation_id: str, own: Sequence[KeyView]) -> list[Document]:
            since = datetime.fromtimestamp(own[0].now, UTC) - CALLS_SINCE
            mine = {"key_id": {"$in": [view.key.id for view in own]}, "outcome": "ok"}
            stages: list[Document] = [
                {"$match": {"automation_id": automation_id, "occurred_at": {"$gt": since}}},
                {"$sort": {"occurred_at": -1}},
                {"$limit": max(1, MOST_SPARKED // len(by_automation))},
                {"$match": mine},
                {"$group": {"_id": "$key_id", "took": {"$push": "$latency_ms"}}},
                {"$set": {"took": {"$slice": ["$took", SPARKED]}}},
            ]
            return [group async for group in self._mongo.usage.aggregate(stages)]

        found = await asyncio.gather(*(read(name, own) for name, own in by_automation.items()))
        return {group["_id"]: group["took"][::-1] for groups in found for group in groups}

    async def _with_costs(self, views: Sequence[KeyView]) -> list[KeyRow]:
        ids = {view.key.id: _total_of_today(view) for view in views}
        wanted = {"_id": {"$in": list(ids.values())}}
        fields = dict.fromkeys(("automation_id", "subject", "attempts", "cost_nanousd"), 1)
        found = await sound_totals(self._mongo.usage_daily.find(wanted, fields))
        totals = {total["_id"]: total for total in found}
        return [
            KeyRow(view, total.get("attempts", 0), total.get("cost_nanousd", 0))
            for view in views
            for total in (totals.get(ids[view.key.id], {}),)
        ]


def _view(document: Document) -> KeyView:
    now = document.pop("server_time").timestamp()
    return KeyView(document, Key.from_document(document, now), now)


def _total_of_today(view: KeyView) -> str:
    day = datetime.fromtimestamp(view.now, UTC).date().isoformat()
    return total_id("key", day, view.key.automation_id, view.key.id)

"""The ledger: one row per attempt at a provider, applied once by its event id, with all that follows from it.

A batch is one transaction: new rows, totals, status changes and their events. Whatever is delivered again is
found there and adds nothing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import structlog

from contracts.messages import UsageRecorded
from infra.mongo import DeleteOne, Document, InsertOne, Mongo, PyMongoError, Session
from infra.totals import total_id
from workers.accounting.lifecycle import next_status, renewal
from workers.accounting.placing import Placed, candidates, place
from workers.accounting.totals import total_updates
from workers.keys.status import CHANGE_FIELDS, change_status

log = structlog.get_logger()

#: Seconds between attempts to write a batch while MongoDB is away.
RETRY_S = 1.0
#: What a decision on a key's status needs of its document.
KEY_FIELDS = {**CHANGE_FIELDS, "limits": 1, "health.failures": 1}


def ledger_id(event: UsageRecorded) -> str:
    """The `_id` of an event's row: its event id, scoped by the automation."""
    return f"{event.automation_id}/{event.event_id}"


def row_of(event: UsageRecorded, recorded_at: datetime) -> Document:
    """The ledger row of an event."""
    row: Document = event.model_dump()
    return row | {
        "_id": ledger_id(event),
        "outcome": str(event.outcome),
        "day": event.occurred_at.astimezone(UTC).date().isoformat(),
        "recorded_at": recorded_at,
    }


class Ledger:
    """Applies usage events to the books."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def apply(self, events: Sequence[UsageRecorded]) -> Sequence[bool]:
        """Apply a batch, however long MongoDB is away.

        Returns:
            For each event whether it was not in the ledger before this batch.
        """
        while True:
            try:
                now = await self._mongo.server_time()
                rows = [row_of(event, now) for event in events]
                placed = await self._mongo.transaction(partial(self._apply, rows, now))
                break
            except PyMongoError as error:
                log.warning("ledger_delayed", events=len(events), error=type(error).__name__)
                await asyncio.sleep(RETRY_S)
        with suppress(PyMongoError):  # the key's next event makes it good
            await self._correct_pools(placed.added, now)
        return placed.is_new

    async def renew_exhausted(self) -> int:
        """Bring back keys whose `exhausted` is over, on MongoDB's clock.

        Returns:
            How many.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        due: Document = {
            "status": "exhausted",
            "status_until": {"$ne": None},
            "$expr": {"$lte": ["$status_until", "$$NOW"]},
        }
        renewed = 0
        async for key in self._mongo.keys.find(due, KEY_FIELDS):
            change = renewal(await self._mongo.server_time())
            renewed += await self._mongo.transaction(partial(change_status, self._mongo, key, change))
        return renewed

    async def _apply(self, rows: Sequence[Document], now: datetime, session: Session) -> Placed:
        ids = [identity for row in rows for identity in candidates(row)]
        found = self._mongo.usage.find({"_id": {"$in": ids}}, session=session)
        placed = place(rows, {row["_id"]: row async for row in found})
        if placed.added:
            removals = [DeleteOne({"_id": row["_id"]}) for row in placed.replaced]
            insertions = [InsertOne(row) for row in placed.added]
            await self._mongo.usage.bulk_write([*removals, *insertions], session=session)
            totals = total_updates(placed.added, placed.replaced)
            await self._mongo.usage_daily.bulk_write(totals, ordered=False, session=session)
            await self._change_statuses(placed.added, now, session)
        return placed

    async def _change_statuses(self, rows: Sequence[Document], now: datetime, session: Session) -> None:
        by_key: dict[str, list[Document]] = defaultdict(list)
        for row in rows:
            by_key[row["key_id"]].append(row)
        totals = await self._totals_today(rows, now, session)
        async for key in self._mongo.keys.find({"_id": {"$in": list(by_key)}}, KEY_FIELDS, session=session):
            change = next_status(key, by_key[key["_id"]], totals.get(key["_id"]), now)
            if change is not None:
                await change_status(self._mongo, key, change, session)
                log.info("key_status_changed", key_id=key["_id"], to=change.to, reason=change.reason)

    async def _totals_today(
        self, rows: Sequence[Document], now: datetime, session: Session
    ) -> dict[str, Document]:
        today = now.date().isoformat()
        ids = {total_id("key", today, row["automation_id"], row["key_id"]) for row in rows}
        found = self._mongo.usage_daily.find({"_id": {"$in": list(ids)}}, session=session)
        return {total["subject"]: total async for total in found}

    async def _correct_pools(self, rows: Sequence[Document], now: datetime) -> None:
        """Raise the pool's count of a key's day to the ledger's: a worker may have died in between.

        Outside of the transaction, since workers write these documents all the time; safe to repeat.
        """
        today = now.date().isoformat()
        ids = {total_id("key", today, row["automation_id"], row["key_id"]) for row in rows}
        async for total in self._mongo.usage_daily.find({"_id": {"$in": list(ids)}}):
            await self._mongo.keys.update_one(
                {"_id": total["subject"], "day": today, "day_tokens": {"$lt": total["total_tokens"]}},
                {"$max": {"day_tokens": total["total_tokens"]}},
            )

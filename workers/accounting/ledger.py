"""The ledger: one row per attempt at a provider, applied once by its event id, with all that follows from it.

A batch is one transaction: new rows, totals, status changes and their events. Whatever is delivered again is
found there and adds nothing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

import structlog

from contracts.messages import Outcome, UsageRecorded
from contracts.retrying import retrying
from infra.isolated_writes import write_isolated
from infra.mongo import Document, Mongo, Session, UpdateOne
from infra.mongo_errors import may_pass
from infra.totals import total_id
from workers.accounting.budgets import count_spending, note_spending
from workers.accounting.crowds import count_subjects, mark_crowds
from workers.accounting.leases import LeaseEntry, Refused, Unreported, after, booked
from workers.accounting.lifecycle import next_status, renewal
from workers.accounting.metrics import LedgerMetrics
from workers.accounting.placing import Placed, other_ids, place
from workers.accounting.totals import total_updates
from workers.keys.checks import ask_for_checks
from workers.keys.leases import GRACE_S, LeasedKey, end_lease
from workers.keys.status import CHANGE_FIELDS, change_status

log = structlog.get_logger()

#: Seconds between attempts to write a batch while MongoDB is away.
RETRY_S = 1.0
#: A batch that could not be written is halved down to so many: MongoDB may be too slow for its transaction.
SMALL_BATCH = 250
#: Leases that are charged together.
MAX_CHARGED = 500
#: What the ledger takes: an attempt of a worker, or something of a lease.
Entry: TypeAlias = UsageRecorded | LeaseEntry
#: Whether an entry was new, or why it is not booked.
Applied: TypeAlias = bool | Refused
#: What a decision on a key's status needs of its document.
KEY_FIELDS = {**CHANGE_FIELDS, "limits": 1, "health.failures": 1}


def ledger_id(event: UsageRecorded) -> str:
    """The `_id` of an event's row: its event id, scoped by the automation."""
    return f"{event.automation_id}/{event.event_id}"


def row_of(event: UsageRecorded, recorded_at: datetime) -> Document:
    """The ledger row of an event."""
    return {
        **event.__dict__,  # `model_dump` makes the same of flat fields, at five times the cost
        "_id": ledger_id(event),
        "outcome": str(event.outcome),
        "day": event.occurred_at.astimezone(UTC).date().isoformat(),
        "recorded_at": recorded_at,
    }


def of_lease(rows: Sequence[Document], lease_id: str) -> list[Document]:
    """The rows that a lease's use is booked in."""
    return [row for row in rows if row["source"] == "lease" and row["request_id"] == lease_id]


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch that is in the ledger: its entries as events, their rows, and the leases that they tell of."""

    events: list[UsageRecorded | Refused]
    rows: list[Document]
    placed: Placed
    leases: dict[str, Document]


class Ledger:
    """Applies usage events to the books."""

    def __init__(self, mongo: Mongo, metrics: LedgerMetrics | None = None) -> None:
        """Take the database, and what counts."""
        self._mongo = mongo
        self._metrics = metrics

    async def apply(self, entries: Sequence[Entry]) -> Sequence[Applied]:
        """Apply a batch, however long MongoDB is away.

        Returns:
            For each entry whether it was not in the ledger before this batch, or why it is not booked.

        Raises:
            Exception: MongoDB refuses the batch for good; nothing of it was applied, or a half.
        """
        is_large = len(entries) > SMALL_BATCH

        def note(error: Exception) -> None:
            log.warning("ledger_delayed", events=len(entries), error=type(error).__name__)

        try:
            batch, now = await retrying(
                partial(self._write, entries),
                passes=lambda error: may_pass(error) and not is_large,
                pause_s=RETRY_S,
                longest_pause_s=RETRY_S,
                note=note,
            )
        except Exception as error:
            if not may_pass(error) or not is_large:
                raise
            note(error)
            await asyncio.sleep(RETRY_S)
            half = len(entries) // 2
            return [*await self.apply(entries[:half]), *await self.apply(entries[half:])]
        if self._metrics is not None:
            self._metrics.booked(batch.placed.added, len(batch.placed.replaced), now)
        await self._follow(batch, now)
        answers = iter(batch.placed.is_new)
        return [event if isinstance(event, Refused) else next(answers) for event in batch.events]

    async def _write(self, entries: Sequence[Entry]) -> tuple[_Batch, datetime]:
        now = await self._mongo.server_time()
        return await self._mongo.transaction(partial(self._apply, entries, now)), now

    async def _follow(self, batch: _Batch, now: datetime) -> None:
        """Do what follows from a batch outside of its transaction; none of it keeps the others from it."""
        for step in (
            partial(count_spending, self._mongo, batch.placed.added, now),
            partial(self._end_leases, batch),
            partial(self._check_doubtful, batch),
            partial(self._correct_pools, batch.placed.added, now),
        ):
            try:
                await step()
            except Exception as error:  # noqa: BLE001  # the key's next event makes it good, and a lease lapses
                log.warning("correction_left_out", step=step.func.__name__, error=type(error).__name__)

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
            try:
                renewed += await self._mongo.transaction(partial(change_status, self._mongo, key, change))
            except Exception as error:
                if may_pass(error):
                    raise
                log.exception("key_not_renewed", key_id=key["_id"], error=type(error).__name__)
        return renewed

    async def charge_unreported(self) -> int:
        """Charge leases whose time is over at their estimate, where nobody reported their use.

        Returns:
            How many.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        due: Document = {
            "status": {"$in": ["open", "revoked"]},
            "$expr": {"$lte": ["$expires_at", {"$subtract": ["$$NOW", GRACE_S * 1000]}]},
        }
        found = self._mongo.leases.find(due, {"_id": 1}).limit(MAX_CHARGED)
        entries = [Unreported(lease["_id"]) async for lease in found]
        if not entries:
            return 0
        answers = await write_isolated(self.apply, entries)
        for entry, answer in zip(entries, answers, strict=True):
            if isinstance(answer, Exception):
                await self._close_uncharged(entry, answer)
        charged = sum(answer is True for answer in answers)
        log.info("leases_charged", leases=charged)
        return charged

    async def _close_uncharged(self, entry: Unreported, error: Exception) -> None:
        """End a lease whose charge can't be written, so that it is not tried again and again.

        Raises:
            Exception: the error may pass.
        """
        if may_pass(error):
            raise error
        log.error("lease_not_charged", lease_id=entry.lease_id, error=type(error).__name__)
        problem = f"its charge can't be stored: {type(error).__name__}"
        closed = [{"$set": {"status": "closed", "problem": problem, "forget_at": "$expires_at"}}]
        await self._mongo.leases.update_one({"_id": entry.lease_id}, closed)

    async def _apply(self, entries: Sequence[Entry], now: datetime, session: Session) -> _Batch:
        leases = await self._leases(entries, session)
        events = [
            entry if isinstance(entry, UsageRecorded) else booked(entry, leases.get(entry.lease_id))
            for entry in entries
        ]
        rows = [row_of(event, now) for event in events if isinstance(event, UsageRecorded)]
        placed = await self._place(rows, now, session)
        await self._note_leases(leases, placed, session)
        return _Batch(events, rows, placed, leases)

    async def _leases(self, entries: Sequence[Entry], session: Session) -> dict[str, Document]:
        ids = {entry.lease_id for entry in entries if not isinstance(entry, UsageRecorded)}
        if not ids:
            return {}
        found = self._mongo.leases.find({"_id": {"$in": list(ids)}}, session=session)
        return {lease["_id"]: lease async for lease in found}

    async def _note_leases(self, leases: dict[str, Document], placed: Placed, session: Session) -> None:
        updates = [
            UpdateOne({"_id": lease_id}, after(lease, added, of_lease(placed.replaced, lease_id)))
            for lease_id, lease in leases.items()
            if (added := of_lease(placed.added, lease_id))
        ]
        if updates:
            await self._mongo.leases.bulk_write(updates, ordered=False, session=session)

    async def _end_leases(self, batch: _Batch) -> None:
        """Have leases whose use is known count no more, with what was used in their place.

        Outside of the transaction, as the correction of pools, and before it; safe to repeat.
        """
        for lease_id, lease in batch.leases.items():
            for row in of_lease(batch.rows, lease_id)[:1]:
                in_minute = not row["tokens_estimated"]
                await end_lease(
                    self._mongo, LeasedKey.from_document(lease), row["total_tokens"], in_minute=in_minute
                )

    async def _check_doubtful(self, batch: _Batch) -> None:
        """Have the provider asked of keys that it refuses, if reports of their leases are true."""
        reported = [row for row in batch.placed.added if row["source"] == "lease"]
        if doubtful := {row["key_id"] for row in reported if row["outcome"] == Outcome.AUTH_FAILED}:
            await ask_for_checks(self._mongo, doubtful)

    async def _place(self, rows: Sequence[Document], now: datetime, session: Session) -> Placed:
        known = await self._known([row["_id"] for row in rows], session)
        if others := other_ids(rows, known):
            known |= await self._known(others, session)
        placed = place(rows, known)
        if placed.replaced:
            replaced = {"_id": {"$in": [row["_id"] for row in placed.replaced]}}
            await self._mongo.usage.delete_many(replaced, session=session)
        if placed.added:
            await mark_crowds(self._mongo, placed.added, session)
            await self._mongo.usage.insert_many(placed.added, ordered=False, session=session)
            totals = total_updates(placed.added, placed.replaced)
            written = await self._mongo.usage_daily.bulk_write(totals, ordered=False, session=session)
            if new := count_subjects((written.upserted_ids or {}).values()):
                await self._mongo.usage_daily.bulk_write(new, ordered=False, session=session)
            await self._change_statuses(placed.added, now, session)
            await note_spending(self._mongo, placed.added, now, session)
        return placed

    async def _known(self, ids: list[str], session: Session) -> dict[str, Document]:
        found = self._mongo.usage.find({"_id": {"$in": ids}}, session=session)
        return {row["_id"]: row async for row in found}

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
        self, rows: Sequence[Document], now: datetime, session: Session | None = None
    ) -> dict[str, Document]:
        """The totals of the UTC day of the keys that rows are of, by the keys' ids."""
        today = now.date().isoformat()
        ids = {total_id("key", today, row["automation_id"], row["key_id"]) for row in rows}
        found = self._mongo.usage_daily.find({"_id": {"$in": list(ids)}}, session=session)
        return {total["subject"]: total async for total in found}

    async def _correct_pools(self, rows: Sequence[Document], now: datetime) -> None:
        """Raise the pool's count of a key's day to the ledger's: a worker may have died in between.

        Outside of the transaction, since workers write these documents all the time; safe to repeat.
        """
        raised = [
            UpdateOne(
                {"_id": key_id, "day": total["day"], "day_tokens": {"$lt": total["total_tokens"]}},
                {"$max": {"day_tokens": total["total_tokens"]}},
            )
            for key_id, total in (await self._totals_today(rows, now)).items()
        ]
        if raised:
            await self._mongo.keys.bulk_write(raised, ordered=False)

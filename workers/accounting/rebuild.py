"""The totals beside the ledger that they are sums of: what differs, and how it is put right.

A day of an automation is read at one point in time, ledger and totals, so that it is right while accounting
runs.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from infra.mongo import Document, DuplicateKeyError, Mongo, Session
from infra.totals import DIMENSIONS, SUMMED, TOKEN_FIELDS, total_id
from workers.accounting.totals import subjects, summands

#: What a total keeps of its rows.
FIELDS = (*SUMMED, "least_reserved_tokens")
#: Where a ledger row says what it counts for in each dimension.
SUBJECT_FIELDS = {"key": "key_id", "automation": "automation_id", "user": "user_id", "model": "model"}
#: What of a row its totals are made of.
ROW_FIELDS = dict.fromkeys(
    (
        *SUBJECT_FIELDS.values(),
        *TOKEN_FIELDS,
        "cost_nanousd",
        "latency_ms",
        "reserved_tokens",
        "outcome",
        "price_known",
        "key_alias",
        "day",
    ),
    1,
)
#: Times that a total is written anew when accounting writes the same one first.
TRIES = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of a total that is not what the ledger says.

    A total that is missing has no `found`, and one without rows no `expected`; of both, `attempts` is named.
    """

    #: The `_id` of the total.
    total: str
    dimension: str
    day: str
    automation_id: str
    subject: str
    field: str
    found: int | None
    expected: int | None


def add_row(totals: dict[str, Document], row: Document) -> None:
    """Count a ledger row in each of its totals, as accounting does."""
    added = summands(row)
    for dimension, subject in subjects(row):
        identity = total_id(dimension, row["day"], row["automation_id"], subject)
        total = totals.get(identity)
        if total is None:
            total = totals[identity] = {
                "dimension": dimension,
                "day": row["day"],
                "automation_id": row["automation_id"],
                "subject": subject,
                "label": row["key_alias"] if dimension == "key" else subject,
                **dict.fromkeys(SUMMED, 0),
                "least_reserved_tokens": row["reserved_tokens"],
            }
        for field, value in added.items():
            total[field] += value
        total["least_reserved_tokens"] = min(total["least_reserved_tokens"], row["reserved_tokens"])


def compare(found: Mapping[str, Document], expected: Mapping[str, Document]) -> Iterator[Difference]:
    """What differs between the totals that are there and those that the ledger makes.

    Args:
        found: totals by their `_id`, as they are.
        expected: the same, as they should be.

    Yields:
        Each field that differs, in the order of the totals' ids.
    """
    for identity in sorted(found.keys() | expected.keys()):
        is_, should_be = found.get(identity), expected.get(identity)
        if should_be is None and is_ is not None and not any(is_.get(field) for field in SUMMED):
            continue  # its only row became another's, when it was known how its call ended
        some = should_be or is_ or {}
        head = (identity, some["dimension"], some["day"], some["automation_id"], some["subject"])
        if is_ is None or should_be is None:
            attempts = (None if total is None else total.get("attempts") for total in (is_, should_be))
            yield Difference(*head, "attempts", *attempts)
            continue
        for field in FIELDS:
            if is_.get(field) != should_be[field]:
                yield Difference(*head, field, is_.get(field), should_be[field])


class Rebuild:
    """Compares the totals with the ledger, and puts right what differs."""

    def __init__(self, mongo: Mongo, *, day: str | None = None, automation_id: str | None = None) -> None:
        """Take the database, and a UTC day (YYYY-MM-DD) and an automation to keep to, if any."""
        self._mongo = mongo
        self._only: Document = {
            name: value
            for name, value in (("day", day), ("automation_id", automation_id))
            if value is not None
        }

    async def days(self) -> dict[str, list[str]]:
        """The days that have rows or totals, in order, and the automations of each.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        found: dict[str, set[str]] = defaultdict(set)
        group = {"$group": {"_id": {"day": "$day", "automation_id": "$automation_id"}}}
        for collection in (self._mongo.usage, self._mongo.usage_daily):
            async for pair in collection.aggregate([{"$match": self._only}, group]):
                found[pair["_id"]["day"]].add(pair["_id"]["automation_id"])
        return {day: sorted(found[day]) for day in sorted(found)}

    async def check(self, day: str, automation_id: str) -> tuple[int, list[Difference]]:
        """Compare the totals of an automation's day with its ledger rows, as they are at one moment.

        Returns:
            How many totals there are or should be, and what differs.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        async with self._mongo.snapshot() as session:
            expected = await self._sum(rows_of(day, automation_id), session)
            named = {"dimension": {"$in": list(DIMENSIONS)}, "day": day, "automation_id": automation_id}
            totals = self._mongo.usage_daily.find(named, session=session)
            found = {total["_id"]: total async for total in totals}
        return len(found.keys() | expected.keys()), list(compare(found, expected))

    async def mend(self, difference: Difference) -> None:
        """Write a total as its rows make it now, or delete it where it has none.

        Accounting may add to it meanwhile: then one of the two transactions is repeated.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """

        async def write(session: Session) -> None:
            named = rows_of(difference.day, difference.automation_id)
            named[SUBJECT_FIELDS[difference.dimension]] = difference.subject
            total = (await self._sum(named, session)).get(difference.total)
            query = {"_id": difference.total}
            if total is None:
                await self._mongo.usage_daily.delete_one(query, session=session)
            else:
                await self._mongo.usage_daily.update_one(query, {"$set": total}, upsert=True, session=session)

        # A total that was missing may be there by now: the driver repeats what is in conflict, but not that.
        made_meanwhile = retry_if_exception_type(DuplicateKeyError)
        again = AsyncRetrying(retry=made_meanwhile, stop=stop_after_attempt(TRIES), reraise=True)
        await again(self._mongo.transaction, write)

    async def _sum(self, query: Document, session: Session) -> dict[str, Document]:
        totals: dict[str, Document] = {}
        async for row in self._mongo.usage.find(query, ROW_FIELDS, session=session).sort("occurred_at", 1):
            add_row(totals, row)
        return totals


def rows_of(day: str, automation_id: str) -> Document:
    """The query for an automation's ledger rows of a UTC day, by the index that there is."""
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return {"automation_id": automation_id, "occurred_at": {"$gte": start, "$lt": start + timedelta(days=1)}}

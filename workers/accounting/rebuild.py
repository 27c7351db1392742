"""The totals beside the ledger that they are sums of: what differs, and how it is put right.

A day of an automation is read at one point in time, ledger and totals, and what they differ by is added, so
that it is right while accounting runs, and never waits for it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra.mongo import Document, DuplicateKeyError, Mongo, Session
from infra.totals import DIMENSIONS, SUMMED, TOKEN_FIELDS, total_id
from workers.accounting.totals import subjects, summands

#: What a total keeps of its rows.
FIELDS = (*SUMMED, "least_reserved_tokens")
#: What a total is of.
HEAD = ("dimension", "day", "automation_id", "subject", "label")
#: What of a row its totals are made of.
ROW_FIELDS = dict.fromkeys(
    (
        "key_id",
        "automation_id",
        "user_id",
        "model",
        *TOKEN_FIELDS,
        "cost_nanousd",
        "latency_ms",
        "reserved_tokens",
        "outcome",
        "price_known",
        "key_alias",
        "day",
        "crowd",
    ),
    1,
)
#: Counts a total's corrections, so that two rebuilds at once don't both add the same.
CORRECTIONS = "corrections"


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


def correction(found: Document | None, expected: Document | None) -> Document:
    """The update that makes of a total what its rows say, whatever is added to it meanwhile.

    Args:
        found: the total as it was, if it was.
        expected: the total that the rows of that moment make, if there were any.
    """
    found, expected = found or {}, expected or {}
    missing = {field: expected.get(field, 0) - (found.get(field) or 0) for field in SUMMED}
    update: Document = {"$inc": {**missing, CORRECTIONS: 1}}
    if expected:
        least = expected["least_reserved_tokens"]
        is_too_low = (found.get("least_reserved_tokens") or least) < least
        update["$set" if is_too_low else "$min"] = {"least_reserved_tokens": least}
        update["$setOnInsert"] = {field: expected[field] for field in HEAD}
    return update


@dataclass(frozen=True, slots=True)
class Comparison:
    """The totals of an automation's day, by their `_id`, as they were and as the ledger made them then."""

    found: Mapping[str, Document]
    expected: Mapping[str, Document]
    differences: Sequence[Difference]

    @property
    def count(self) -> int:
        """How many totals there are or should be."""
        return len(self.found.keys() | self.expected.keys())


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

    async def check(self, day: str, automation_id: str) -> Comparison:
        """Compare the totals of an automation's day with its ledger rows, as they are at one moment.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        async with self._mongo.snapshot() as session:
            expected = await self._sum(rows_of(day, automation_id), session)
            named = {"dimension": {"$in": list(DIMENSIONS)}, "day": day, "automation_id": automation_id}
            totals = self._mongo.usage_daily.find(named, session=session)
            found = {total["_id"]: total async for total in totals}
        return Comparison(found, expected, list(compare(found, expected)))

    async def mend(self, comparison: Comparison) -> None:
        """Add to each total what it lacked when it was compared, and delete those that count nothing.

        What accounting adds meanwhile stays; what another rebuild corrected first is left as it is.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        for identity in {difference.total for difference in comparison.differences}:
            found, expected = comparison.found.get(identity), comparison.expected.get(identity)
            corrections = (found or {}).get(CORRECTIONS, {"$exists": False})
            uncorrected = {"_id": identity, CORRECTIONS: corrections}
            update = correction(found, expected)
            with suppress(DuplicateKeyError):  # there was none to correct, and another rebuild made it
                await self._mongo.usage_daily.update_one(uncorrected, update, upsert=found is None)
            if expected is None:
                await self._mongo.usage_daily.delete_one({"_id": identity, **dict.fromkeys(SUMMED, 0)})

    async def _sum(self, query: Document, session: Session) -> dict[str, Document]:
        totals: dict[str, Document] = {}
        async for row in self._mongo.usage.find(query, ROW_FIELDS, session=session).sort("occurred_at", 1):
            add_row(totals, row)
        return totals


def rows_of(day: str, automation_id: str) -> Document:
    """The query for an automation's ledger rows of a UTC day, by the index that there is."""
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return {"automation_id": automation_id, "occurred_at": {"$gte": start, "$lt": start + timedelta(days=1)}}

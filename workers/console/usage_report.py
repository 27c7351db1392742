"""The usage report: what a range of UTC days used and cost, from the totals and never from the ledger."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

from infra.errors import PlatformError
from infra.mongo import Document, Mongo
from infra.totals import SUMMED, total_id

#: The longest range of a report, in days.
LONGEST_RANGE = 366
#: Subjects that a report names by themselves; the rest is `others`.
MOST_NAMED = 50
#: What a report says of each single day.
DAILY = ("attempts", "total_tokens", "cost_nanousd")
#: Columns of an export, beside the sums.
HEAD = ("day", "automation_id", "subject", "label")
#: What a cell may not begin with, since spreadsheets take it for a formula (OWASP, "CSV Injection").
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
#: Rows of an export that are written at a time.
CHUNK = 500

Sums = dict[str, int]


class Dimension(StrEnum):
    """What usage can be told apart by."""

    KEY = "key"
    AUTOMATION = "automation"
    USER = "user"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Days:
    """A range of UTC days, the first and the last included.

    Raises:
        PlatformError: it is empty, or longer than `LONGEST_RANGE`.
    """

    first: date
    last: date

    def __post_init__(self) -> None:
        if not self.first <= self.last:
            raise PlatformError(f"the range is empty: {self.first} is after {self.last}")
        if (self.last - self.first).days >= LONGEST_RANGE:
            raise PlatformError(f"the range is longer than {LONGEST_RANGE} days")

    def __iter__(self) -> Iterator[str]:
        """Each day as totals name it."""
        count = (self.last - self.first).days + 1
        return ((self.first + timedelta(days=number)).isoformat() for number in range(count))

    def query(self) -> Document:
        """The same for MongoDB."""
        return {"$gte": self.first.isoformat(), "$lte": self.last.isoformat()}


@dataclass(frozen=True, slots=True)
class Usage:
    """What one subject used.

    Attributes:
        automation_id: whose subject it is; None: of all automations together.
        subject: its id.
        label: its name for people.
        sums: over all days, by the names of `SUMMED`.
        daily: the sums of `DAILY` for each day of the report.
    """

    automation_id: str | None
    subject: str
    label: str
    sums: Sums
    daily: list[Sums]


@dataclass(frozen=True, slots=True)
class Report:
    """What a range of days used and cost."""

    by: Dimension
    days: list[str]
    #: The dearest first.
    rows: list[Usage]
    #: What is in no row; None: nothing.
    others: Usage | None
    total: Usage


def rest(total: Usage, named: Iterable[Usage]) -> Usage | None:
    """What a total holds beyond what is named; None: nothing."""
    rows = list(named)
    sums = {name: value - sum(row.sums[name] for row in rows) for name, value in total.sums.items()}
    if not any(sums.values()):
        return None
    daily = [
        {name: value - sum(row.daily[index][name] for row in rows) for name, value in day.items()}
        for index, day in enumerate(total.daily)
    ]
    return Usage(None, "", "others", sums, daily)


def cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


class UsageReports:
    """Reads totals."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def read(
        self, by: Dimension, days: Days, automation_id: str | None = None, *, most: int = MOST_NAMED
    ) -> Report:
        """What a range of days used and cost.

        Args:
            by: what to tell it apart by.
            days: the range.
            automation_id: only this one's.
            most: subjects that are named by themselves.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        total = await self._total(days, automation_id)
        rows = await self._dearest(by, days, automation_id, most)
        await self._fill_days(rows, by, days, automation_id)
        return Report(by, list(days), rows, rest(total, rows), total)

    async def export(self, by: Dimension, days: Days, automation_id: str | None = None) -> AsyncIterator[str]:
        """Every total of a range of days as CSV, a line each, the latest day first.

        Yields:
            Parts of the text.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        yield _csv([(*HEAD, *SUMMED)])
        totals = self._mongo.usage_daily.find(_match(by, days, automation_id))
        lines: list[list[object]] = []
        async for total in totals.sort([("day", -1), ("automation_id", 1)]):
            if total["attempts"]:
                lines.append([total.get(name, 0) for name in (*HEAD, *SUMMED)])
            if len(lines) >= CHUNK:
                yield _csv(lines)
                lines = []
        yield _csv(lines)

    async def _total(self, days: Days, automation_id: str | None) -> Usage:
        """All that was used: each call counts in one automation's totals, and in those of no other."""
        stages = [
            {"$match": _match(Dimension.AUTOMATION, days, automation_id)},
            {"$group": {"_id": "$day", **_sums(SUMMED)}},
        ]
        found = {day.pop("_id"): day async for day in self._mongo.usage_daily.aggregate(stages)}
        sums = {name: sum(day[name] for day in found.values()) for name in SUMMED}
        daily = [_daily(found.get(day, {})) for day in days]
        return Usage(automation_id, "", "total", sums, daily)

    async def _dearest(self, by: Dimension, days: Days, automation_id: str | None, most: int) -> list[Usage]:
        """The subjects with the highest costs; a model is the same one whoever calls it."""
        merged = by is Dimension.MODEL and automation_id is None
        identity: Document = {"s": "$subject"} if merged else {"a": "$automation_id", "s": "$subject"}
        stages: list[Document] = [
            {"$match": _match(by, days, automation_id)},
            {"$group": {"_id": identity, "label": {"$last": "$label"}, **_sums(SUMMED)}},
            {"$match": {"attempts": {"$gt": 0}}},
            {"$sort": {"cost_nanousd": -1, "total_tokens": -1, "attempts": -1, "_id": 1}},
            {"$limit": most},
        ]
        return [
            Usage(
                found["_id"].get("a"),
                found["_id"]["s"],
                found["label"],
                {name: found[name] for name in SUMMED},
                [],
            )
            async for found in self._mongo.usage_daily.aggregate(stages, allowDiskUse=True)
        ]

    async def _fill_days(
        self, rows: list[Usage], by: Dimension, days: Days, automation_id: str | None
    ) -> None:
        """Say of each row what each day used; its totals are found by their names."""
        if by is Dimension.MODEL and automation_id is None:
            match = _match(by, days, None) | {"subject": {"$in": [row.subject for row in rows]}}
        else:
            ids = [
                total_id(by.value, day, row.automation_id or "", row.subject) for row in rows for day in days
            ]
            match = {"_id": {"$in": ids}}
        identity = {"day": "$day", "s": "$subject"}
        if "_id" in match:
            identity["a"] = "$automation_id"
        stages = [{"$match": match}, {"$group": {"_id": identity, **_sums(DAILY)}}]
        found = {
            (total["_id"]["day"], total["_id"].get("a"), total["_id"]["s"]): total
            async for total in self._mongo.usage_daily.aggregate(stages)
        }
        for row in rows:
            row.daily.extend(_daily(found.get((day, row.automation_id, row.subject), {})) for day in days)


def _match(by: Dimension, days: Days, automation_id: str | None) -> Document:
    match: Document = {"dimension": by.value, "day": days.query()}
    return match if automation_id is None else match | {"automation_id": {"$eq": automation_id}}


def _sums(fields: Iterable[str]) -> Document:
    return {name: {"$sum": f"${name}"} for name in fields}


def _daily(total: Mapping[str, Any]) -> Sums:
    return {name: total.get(name, 0) for name in DAILY}


def _csv(lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([cell(value) for value in line] for line in lines)
    return text.getvalue()

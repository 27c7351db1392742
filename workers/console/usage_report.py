"""The usage report: what a range of UTC days used and cost, from the totals and never from the ledger."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

from infra.errors import PlatformError
from infra.mongo import Document, Mongo
from infra.totals import SUMMED, sound_totals, total_id
from workers.console.model_totals import DayOfModels, ModelTotals

#: The longest range of a report, in days.
LONGEST_RANGE = 366
#: Subjects that a report names by themselves; the rest is `others`.
MOST_NAMED = 50
#: Totals of single days that are looked at to find the dearest subjects.
MOST_READ = 6000
#: What is read of those.
CANDIDATE = {"automation_id": 1, "subject": 1, "cost_nanousd": 1}
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
    """What a total holds beyond what is named; None: nothing.

    A past day's total may be a while older than what is named of it: so no difference is below 0.
    """
    rows = list(named)
    sums = {name: max(0, value - sum(row.sums[name] for row in rows)) for name, value in total.sums.items()}
    if not any(sums.values()):
        return None
    daily = [
        {name: max(0, value - sum(row.daily[index][name] for row in rows)) for name, value in day.items()}
        for index, day in enumerate(total.daily)
    ]
    return Usage(None, "", "others", sums, daily)


def cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


class UsageReports:
    """Reads totals."""

    def __init__(self, mongo: Mongo, models: ModelTotals) -> None:
        """Take the database, and what each model used over all automations."""
        self._mongo = mongo
        self._models = models

    async def read(
        self, by: Dimension, days: Days, automation_id: str | None = None, *, most: int = MOST_NAMED
    ) -> Report:
        """What a range of days used and cost.

        Of dimensions with very many subjects, such as users, only those are ranked that are among the dearest
        of a day; what a row says is exact. `total` of past days may be `model_totals.KEPT_S` old.

        Args:
            by: what to tell it apart by.
            days: the range.
            automation_id: only this one's.
            most: subjects that are named by themselves.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        named = list(days)
        if automation_id is None:
            rows = _of_models(await self._models.read(named), named)
            total = _added(rows, len(named))
        else:
            own = [(automation_id, automation_id)]
            (total,) = await self._exact(Dimension.AUTOMATION, named, own)
            rows = []
        if by is not Dimension.MODEL or automation_id is not None:
            candidates = await self._candidates(by, named, automation_id, most)
            rows = await self._exact(by, named, candidates)
        rows = sorted((row for row in rows if row.sums["attempts"]), key=_dearest_first)[:most]
        return Report(by, named, rows, rest(total, rows), total)

    async def export(self, by: Dimension, days: Days, automation_id: str | None = None) -> AsyncIterator[str]:
        """Every total of a range of days as CSV, a line each, the latest day first, and the dearest in it.

        Yields:
            Parts of the text.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        yield _csv([(*HEAD, *SUMMED)])
        totals = self._mongo.usage_daily.find(_match(by, days.query(), automation_id))
        lines: list[list[object]] = []
        async for total in totals.sort([("day", -1), ("cost_nanousd", -1)]):
            if total.get("attempts"):
                lines.append([total.get(name, 0) for name in (*HEAD, *SUMMED)])
            if len(lines) >= CHUNK:
                yield _csv(lines)
                lines = []
        yield _csv(lines)

    async def _candidates(
        self, by: Dimension, days: list[str], automation_id: str | None, most: int
    ) -> list[tuple[str, str]]:
        """Automation and subject of those that are likely the dearest: by the dearest totals of each day."""
        a_day = max(most, MOST_READ // len(days))

        async def dearest(day: str) -> list[Document]:
            found = self._mongo.usage_daily.find(_match(by, day, automation_id), CANDIDATE)
            return await sound_totals(found.sort("cost_nanousd", -1).limit(a_day))

        spent: dict[tuple[str, str], int] = {}
        for totals in await asyncio.gather(*(dearest(day) for day in days)):
            for total in totals:
                subject = (total["automation_id"], total["subject"])
                spent[subject] = spent.get(subject, 0) + total["cost_nanousd"]
        return sorted(spent, key=lambda subject: (-spent[subject], subject))[: 2 * most]

    async def _exact(self, by: Dimension, days: list[str], subjects: list[tuple[str, str]]) -> list[Usage]:
        """What subjects used on each day, by their totals' names."""
        ids = [total_id(by.value, day, *subject) for subject in subjects for day in days]
        totals_found = await sound_totals(self._mongo.usage_daily.find({"_id": {"$in": ids}}))
        found = {total["_id"]: total for total in totals_found}
        rows = []
        for automation_id, subject in subjects:
            totals = [found.get(total_id(by.value, day, automation_id, subject), {}) for day in days]
            label = next((total.get("label", subject) for total in reversed(totals) if total), subject)
            rows.append(_usage(automation_id, subject, label, totals))
        return rows


def _of_models(sums: Mapping[str, DayOfModels], days: list[str]) -> list[Usage]:
    """What each model used, whoever called it."""
    models = sorted({model for day in sums.values() for model in day})
    return [_usage(None, model, model, [sums[day].get(model, {}) for day in days]) for model in models]


def _added(rows: list[Usage], days: int) -> Usage:
    """All that was used: each call counts in one model's totals, and in those of no other."""
    sums = {name: sum(row.sums[name] for row in rows) for name in SUMMED}
    daily = [{name: sum(row.daily[index][name] for row in rows) for name in DAILY} for index in range(days)]
    return Usage(None, "", "total", sums, daily)


def _usage(automation_id: str | None, subject: str, label: str, totals: Sequence[Mapping[str, Any]]) -> Usage:
    sums = {name: sum(total.get(name, 0) for total in totals) for name in SUMMED}
    daily = [{name: total.get(name, 0) for name in DAILY} for total in totals]
    return Usage(automation_id, subject, label, sums, daily)


def _dearest_first(row: Usage) -> tuple[int, int, int, str]:
    sums = row.sums
    return -sums["cost_nanousd"], -sums["total_tokens"], -sums["attempts"], row.subject


def _match(by: Dimension, day: object, automation_id: str | None) -> Document:
    match: Document = {"dimension": by.value, "day": day}
    return match if automation_id is None else match | {"automation_id": {"$eq": automation_id}}


def _csv(lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([cell(value) for value in line] for line in lines)
    return text.getvalue()

"""Requests as operators see them: those under way, and those that ended, the latest first.

An end is read from the ledger, where every attempt has its row for good, or from the journal, where a request
that ended without an attempt stays for as long as results are kept. Prompts and answers are never shown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import from_json

from contracts.messages import Outcome
from infra.errors import NotFoundError, VaultError
from infra.mongo import Document, Mongo
from infra.stored_results import open_stored
from infra.vault import Vault
from workers.console.request_summary import RequestSummary, Status, summarise
from workers.console.request_timeline import Step, steps_of

#: Requests under way that are shown.
MOST_RUNNING = 200
#: Rows that are read of the ledger, and of the journal, for one page: a few for each request, and more where
#: that is not enough, as long as these are not read.
ROWS_OF_REQUEST, MOST_READ = 3, 2000
#: MongoDB's times have milliseconds.
TICK = timedelta(milliseconds=1)
FAILED_OUTCOMES = [outcome.value for outcome in Outcome if outcome is not Outcome.OK]
#: What is read of a journal's entry: nothing that was said.
JOURNAL = {
    "automation_id": 1,
    "request_id": 1,
    "status": 1,
    "owner": 1,
    "run": 1,
    "crashes": 1,
    "call": 1,
    "created_at": 1,
    "finished_at": 1,
    "timings": 1,
    "user_id": 1,
    "model": 1,
    "path": 1,
}


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests are meant; what is None narrows nothing.

    Attributes:
        automation_id: whose.
        request_id: with this id.
        user_id: booked on this user.
        status: how far.
        outcome: with an attempt that ended so.
        since: ended then or later.
        before: ended earlier.
    """

    automation_id: str | None = None
    request_id: str | None = None
    user_id: str | None = None
    status: Status | None = None
    outcome: str | None = None
    since: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of requests, the latest first; `before` asks for the next one, None: there is none."""

    requests: list[RequestSummary]
    before: datetime | None


@dataclass(frozen=True, slots=True)
class RequestDetail:
    """One request with its attempts, and what of its time went where.

    Attributes:
        summary: of it.
        attempts: the ledger's rows, in their order.
        steps: for a waterfall.
        exact: whether waiting is known; else the steps are the attempts alone.
        worker: who has it in hand.
    """

    summary: RequestSummary
    attempts: list[Document]
    steps: list[Step]
    exact: bool
    worker: str | None


def is_newest(row: Document, rows: Iterable[Document], wanted: RequestFilter) -> bool:
    """Whether a row is the one that stands for its request: the newest of those that are asked for."""
    matching = [other for other in rows if _is_wanted(other, wanted)]
    newest = max(matching, key=lambda other: (other["occurred_at"], other["_id"]), default=row)
    return bool(newest["_id"] == row["_id"])


class RequestLog:
    """Reads requests."""

    def __init__(self, mongo: Mongo, vault: Vault, *, result_ttl_s: int) -> None:
        """Take the database, what opens results, and for how long they are kept, in seconds."""
        self._mongo = mongo
        self._vault = vault
        self._result_ttl = timedelta(seconds=result_ttl_s)

    async def search(self, wanted: RequestFilter, *, most: int) -> Page:
        """Requests, the latest first: those under way, then those that ended.

        Args:
            wanted: which.
            most: how many that ended; a few more where they ended in the same millisecond.

        Returns:
            A page; it may be short, or empty, though there are more: then `before` goes on.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        running: list[RequestSummary] = []
        if wanted.before is None and wanted.outcome is None and wanted.status in {None, Status.RUNNING}:
            running = await self._running(wanted)
        if wanted.status is Status.RUNNING:
            return Page(running, None)
        read = ROWS_OF_REQUEST * most
        while True:
            ended, before = await self._ended(wanted, most, read)
            goes_on = before is not None and (wanted.before is None or before < wanted.before)
            if before is None or (goes_on and (len(ended) >= most or read >= MOST_READ)):
                return Page(running + ended, before)
            read *= 4

    async def find(self, automation_id: str, request_id: str) -> RequestDetail:
        """One request with its attempts.

        Raises:
            NotFoundError: neither the ledger nor the journal knows it.
            PyMongoError: MongoDB is away or refused.
        """
        mine = {"automation_id": {"$eq": automation_id}, "request_id": {"$eq": request_id}}
        found = self._mongo.usage.find(mine).sort([("occurred_at", 1), ("_id", 1)]).limit(MOST_READ)
        rows = [row async for row in found]
        entry = await self._mongo.requests.find_one({"_id": f"{automation_id}/{request_id}"})
        if entry is None and not rows:
            raise NotFoundError(f"{automation_id} has no request {request_id} that anybody remembers")
        timings = self._timings(entry)
        summary = summarise(rows, entry, timings)
        steps = steps_of(rows, timings)
        worker = entry["owner"] if entry is not None and entry["status"] == "running" else None
        return RequestDetail(summary, [_attempt(row) for row in rows], steps, timings is not None, worker)

    async def _running(self, wanted: RequestFilter) -> list[RequestSummary]:
        """Requests under way; they are kept for longer than any result is, so that they are found by that."""
        if wanted.user_id is not None:
            return []
        query: Document = {"status": "running"}
        if wanted.request_id is not None:
            query |= await self._ids(wanted)
        else:
            query["expires_at"] = {"$gt": await self._mongo.server_time() + self._result_ttl}
            if wanted.automation_id is not None:
                query["automation_id"] = {"$eq": wanted.automation_id}
        found = self._mongo.requests.find(query, JOURNAL).sort("expires_at", -1).limit(MOST_RUNNING)
        return [summarise([], entry, None) async for entry in found]

    async def _ended(
        self, wanted: RequestFilter, most: int, read: int
    ) -> tuple[list[RequestSummary], datetime | None]:
        """Requests that ended before a time, and the time to go on before.

        The ledger and the journal are read side by side, each down to a time; what lies above both is
        complete.
        """
        rows = await self._rows(wanted, read)
        entries = await self._unattempted(wanted, read)
        horizons = [read_down for read_down in (_horizon(rows, read), _horizon(entries, read)) if read_down]
        horizon = max(horizons, default=None)
        standing = await self._standing(rows, wanted)
        ended = [*standing, *(summarise([], entry, entry.get("timings")) for entry in entries)]
        ended = [summary for summary in ended if horizon is None or summary.at > horizon]
        ended.sort(key=lambda summary: (summary.at, summary.automation_id, summary.request_id), reverse=True)
        if len(ended) > most:
            last = ended[most - 1].at
            return [summary for summary in ended if summary.at >= last], last
        return ended, None if horizon is None else horizon + TICK

    async def _rows(self, wanted: RequestFilter, read: int) -> list[Document]:
        query = _between("occurred_at", wanted)
        if wanted.request_id is not None:
            automations = await self._automations(wanted)
            query |= {"automation_id": {"$in": automations}, "request_id": {"$eq": wanted.request_id}}
        elif wanted.automation_id is not None:
            query["automation_id"] = {"$eq": wanted.automation_id}
        query |= _attempt_query(wanted)
        found = self._mongo.usage.find(query).sort("occurred_at", -1).limit(read)
        return [row async for row in found]

    async def _unattempted(self, wanted: RequestFilter, read: int) -> list[Document]:
        if wanted.status is Status.SUCCEEDED or wanted.outcome is not None:
            return []
        query: Document = {"unattempted": True, **_between("finished_at", wanted)}
        if wanted.request_id is not None:
            query |= await self._ids(wanted)
        elif wanted.automation_id is not None:
            query["automation_id"] = {"$eq": wanted.automation_id}
        if wanted.user_id is not None:
            query["user_id"] = {"$eq": wanted.user_id}
        found = self._mongo.requests.find(query, JOURNAL).sort("finished_at", -1).limit(read)
        return [entry async for entry in found]

    async def _standing(self, rows: Sequence[Document], wanted: RequestFilter) -> list[RequestSummary]:
        """The requests of rows, each once."""
        requests = {(row["automation_id"], row["request_id"]) for row in rows}
        if not requests:
            return []
        by_request = await self._all_rows(requests)
        ids = [f"{automation_id}/{request_id}" for automation_id, request_id in requests]
        found = self._mongo.requests.find({"_id": {"$in": ids}}, JOURNAL)
        entries = {(entry["automation_id"], entry["request_id"]): entry async for entry in found}
        summaries = []
        for row in rows:
            request = (row["automation_id"], row["request_id"])
            entry = entries.get(request)
            if entry is not None and entry["status"] == "running":
                continue
            summary = summarise(
                by_request[request], entry, (entry or {}).get("timings"), at=row["occurred_at"]
            )
            if is_newest(row, by_request[request], wanted) and wanted.status in {None, summary.status}:
                summaries.append(summary)
        return summaries

    async def _all_rows(self, requests: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[Document]]:
        by_automation: dict[str, list[str]] = {}
        for automation_id, request_id in requests:
            by_automation.setdefault(automation_id, []).append(request_id)
        either = [{"automation_id": a, "request_id": {"$in": ids}} for a, ids in by_automation.items()]
        rows: dict[tuple[str, str], list[Document]] = {}
        async for row in self._mongo.usage.find({"$or": either}).sort([("occurred_at", 1), ("_id", 1)]):
            rows.setdefault((row["automation_id"], row["request_id"]), []).append(row)
        return rows

    async def _ids(self, wanted: RequestFilter) -> Document:
        automations = await self._automations(wanted)
        return {"_id": {"$in": [f"{automation}/{wanted.request_id}" for automation in automations]}}

    async def _automations(self, wanted: RequestFilter) -> list[str]:
        if wanted.automation_id is not None:
            return [wanted.automation_id]
        return list(await self._mongo.automations.distinct("_id"))

    def _timings(self, entry: Document | None) -> dict[str, int] | None:
        """A request's timings: those that the journal tells, else the result's, where it can be opened."""
        if entry is None or entry["status"] == "running":
            return None
        if (told := entry.get("timings")) is not None:
            return dict(told)
        try:
            # A result is kept up to its last field.
            result = from_json(open_stored(self._vault, entry, "result") + b"}")
        except (VaultError, ValueError, KeyError):
            return None
        timings = result.get("timings") if isinstance(result, dict) else None
        return timings if isinstance(timings, dict) else None


def _between(name: str, wanted: RequestFilter) -> Document:
    between: Document = {}
    if wanted.since is not None:
        between["$gte"] = wanted.since
    if wanted.before is not None:
        between["$lt"] = wanted.before
    return {name: between} if between else {}


def _attempt_query(wanted: RequestFilter) -> Document:
    """What a row has to be for its request to be asked for."""
    query: Document = {}
    if wanted.user_id is not None:
        query["user_id"] = {"$eq": wanted.user_id}
    if wanted.outcome is not None:
        query["outcome"] = {"$eq": wanted.outcome}
    elif wanted.status is Status.SUCCEEDED:
        query["outcome"] = {"$eq": Outcome.OK.value}
    elif wanted.status is Status.FAILED:
        query["outcome"] = {"$in": FAILED_OUTCOMES}
    return query


def _is_wanted(row: Document, wanted: RequestFilter) -> bool:
    """Whether a row answers `_attempt_query`."""
    if wanted.user_id is not None and row["user_id"] != wanted.user_id:
        return False
    if wanted.outcome is not None:
        return bool(row["outcome"] == wanted.outcome)
    is_ok = row["outcome"] == Outcome.OK.value
    return wanted.status is None or is_ok == (wanted.status is Status.SUCCEEDED)


def _horizon(read: Sequence[Document], most: int) -> datetime | None:
    """The time down to which all was read; None: all there is."""
    if len(read) < most:
        return None
    last: datetime = read[-1].get("occurred_at") or read[-1]["finished_at"]
    return last


def _attempt(row: Document) -> Document:
    named = (
        "event_id", "key_id", "key_alias", "path", "model", "outcome", "http_status", "error_code",
        "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens",
        "cost_nanousd", "price_known", "latency_ms", "reserved_tokens", "source", "occurred_at",
    )  # fmt: skip
    found: dict[str, Any] = {name: row.get(name) for name in named}
    return found

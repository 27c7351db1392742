"""The state of things at a glance: how much is asked and answered, what it costs, how long it takes."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contracts import names
from infra.lanes import QueueWatch
from infra.living_processes import living_workers
from infra.mongo import Document, Mongo
from infra.totals import SUMMED
from workers.budgets.registry import BudgetRegistry, Standing

#: An overview is good for so long, in seconds: whoever asks meanwhile gets the same one.
FRESH_S = 1.0
#: Answers are counted over so long, in so many parts of it.
RECENT = timedelta(seconds=60)
BUCKET_S = 5
#: Daily budgets that are named, those of which most is spent; and how often they are read, in seconds.
MOST_BUDGETS, BUDGETS_EVERY_S = 6, 5.0
#: How long waits and calls took is told of those of the last minutes, of so many of them at the most.
TIMED = timedelta(minutes=5)
MOST_TIMED = 1000


@dataclass(frozen=True, slots=True)
class Percentiles:
    """How long something took, in milliseconds; of `count` times that were looked at."""

    count: int
    p50_ms: int | None
    p95_ms: int | None


@dataclass(frozen=True, slots=True)
class Bucket:
    """What ended in `BUCKET_S` seconds."""

    at: datetime
    outcomes: dict[str, int]


@dataclass(frozen=True, slots=True)
class DailyBudget:
    """What an automation may spend on a UTC day, and has spent by the books."""

    automation_id: str
    limit_nanousd: int
    spent_nanousd: int
    hard: bool


@dataclass(frozen=True, slots=True)
class BudgetsToday:
    """Automations' own daily budgets: the sums of all, and those of which most is spent by now."""

    count: int
    limit_nanousd: int
    spent_nanousd: int
    most_used: list[DailyBudget]


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of things.

    Attributes:
        at: when, on MongoDB's clock.
        requests_per_s: how fast requests come in, as RabbitMQ counts over its last seconds.
        answers_per_s: attempts that succeeded, over the last minute.
        outcomes: attempts of the last minute by how they ended.
        recent: the same in parts of 5 seconds, the oldest first.
        today: the sums of the UTC day (`infra.totals.SUMMED`).
        budgets_today: the automations' daily budgets, at most 5 seconds before.
        queue_wait: from publishing to a worker's receipt.
        provider_time: of single attempts that succeeded.
        waiting: requests in all lanes.
        in_hand: requests that workers have taken and not acknowledged.
        unbooked: events that wait for accounting.
        dead: dead letters.
        workers: generation workers that are alive.
        keys: how many, by status.
        open_alerts: how many.
    """

    at: datetime
    requests_per_s: float
    answers_per_s: float
    outcomes: dict[str, int]
    recent: list[Bucket]
    today: dict[str, int]
    budgets_today: BudgetsToday
    queue_wait: Percentiles
    provider_time: Percentiles
    waiting: int
    in_hand: int
    unbooked: int
    dead: int
    workers: int
    keys: dict[str, int]
    open_alerts: int


def percentiles(times: Sequence[int]) -> Percentiles:
    """The median and the 95th percentile, by the nearest rank."""
    ordered = sorted(times)
    if not ordered:
        return Percentiles(0, None, None)
    ranks = [ordered[max(0, -(-len(ordered) * percent // 100) - 1)] for percent in (50, 95)]
    return Percentiles(len(ordered), *ranks)


def budgets_today(standings: Sequence[Standing]) -> BudgetsToday:
    """Daily budgets at a glance; of those that are used as much, the larger comes first."""
    budgets = [DailyBudget(s.budget.automation_id, s.budget.limit, s.spent, s.budget.hard) for s in standings]
    most_used = sorted(budgets, key=lambda b: (-b.spent_nanousd / b.limit_nanousd, -b.limit_nanousd))
    return BudgetsToday(
        len(budgets),
        sum(budget.limit_nanousd for budget in budgets),
        sum(budget.spent_nanousd for budget in budgets),
        most_used[:MOST_BUDGETS],
    )


def buckets(counts: Sequence[tuple[datetime, str, int]], now: datetime) -> list[Bucket]:
    """Counts by the beginning of their 5 seconds and their outcome, as a row without gaps up to now."""
    end = int(now.timestamp()) // BUCKET_S * BUCKET_S
    starts = range(end - int(RECENT.total_seconds()) + BUCKET_S, end + BUCKET_S, BUCKET_S)
    by_start: dict[int, dict[str, int]] = {start: {} for start in starts}
    for at, outcome, count in counts:
        if (found := by_start.get(int(at.timestamp()))) is not None:
            found[outcome] = count
    return [Bucket(datetime.fromtimestamp(start, UTC), found) for start, found in by_start.items()]


class Overviews:
    """Reads overviews, one for all who ask within a second."""

    def __init__(self, mongo: Mongo, watch: QueueWatch, *, result_ttl_s: int) -> None:
        """Take the database, what watches the queues, and how long the journal keeps results, in seconds."""
        self._mongo = mongo
        self._watch = watch
        self._budgets = BudgetRegistry(mongo, "console")
        self._result_ttl = timedelta(seconds=result_ttl_s)
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._last: Overview | None = None
        self._budgets_read_at = float("-inf")
        self._last_budgets = budgets_today([])

    async def read(self) -> Overview:
        """The state of things, at most a second ago.

        Raises:
            BrokerError: the management API refuses, or can't be reached.
            PyMongoError: MongoDB is away or refused.
        """
        async with self._reading:
            if self._last is None or time.monotonic() - self._read_at > FRESH_S:
                self._last = await self._read()
                self._read_at = time.monotonic()
            return self._last

    async def _read(self) -> Overview:
        now = await self._mongo.server_time()
        queues, recent, today = await asyncio.gather(
            self._watch.queues(), self._recent(now), self._today(now)
        )
        waits, calls = await asyncio.gather(self._queue_waits(now), self._provider_times(now))
        workers, keys, alerts, budgets = await asyncio.gather(
            living_workers(self._mongo),
            self._keys(),
            self._mongo.alerts.count_documents({"resolved_at": None}),
            self._budgets_today(),
        )
        lanes = [state for name, state in queues.items() if name.startswith(names.lane_queue(""))]
        accounting, dead = queues.get(names.ACCOUNTING_QUEUE), queues.get(names.DEAD_QUEUE)
        outcomes: dict[str, int] = {}
        for _, outcome, count in recent:
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        return Overview(
            at=now,
            requests_per_s=round(sum(lane.publish_rate for lane in lanes), 2),
            answers_per_s=round(outcomes.get("ok", 0) / RECENT.total_seconds(), 2),
            outcomes=outcomes,
            recent=buckets(recent, now),
            today=today,
            budgets_today=budgets,
            queue_wait=percentiles(waits),
            provider_time=percentiles(calls),
            waiting=sum(lane.waiting for lane in lanes),
            in_hand=sum(lane.in_hand for lane in lanes),
            unbooked=0 if accounting is None else accounting.waiting + accounting.in_hand,
            dead=0 if dead is None else dead.waiting + dead.in_hand,
            workers=workers,
            keys=keys,
            open_alerts=alerts,
        )

    async def _recent(self, now: datetime) -> list[tuple[datetime, str, int]]:
        """Attempts of the last minute, counted in the index alone."""
        start = {"$dateTrunc": {"date": "$occurred_at", "unit": "second", "binSize": BUCKET_S}}
        stages: list[Document] = [
            {"$match": {"occurred_at": {"$gt": now - RECENT}}},
            {"$project": {"_id": 0, "occurred_at": 1, "outcome": 1}},
            {"$group": {"_id": {"at": start, "outcome": "$outcome"}, "count": {"$sum": 1}}},
        ]
        found = self._mongo.usage.aggregate(stages, hint="latest")
        return [(group["_id"]["at"], group["_id"]["outcome"], group["count"]) async for group in found]

    async def _today(self, now: datetime) -> dict[str, int]:
        day = now.astimezone(UTC).date().isoformat()
        sums: Document = {name: {"$sum": f"${name}"} for name in SUMMED}
        stages = [
            {"$match": {"dimension": "automation", "day": day}},
            {"$group": {"_id": None, **sums}},
        ]
        async for total in self._mongo.usage_daily.aggregate(stages):
            return {name: total[name] for name in SUMMED}
        return dict.fromkeys(SUMMED, 0)

    async def _budgets_today(self) -> BudgetsToday:
        if time.monotonic() - self._budgets_read_at > BUDGETS_EVERY_S:
            own = {"scope": "automation", "window": "day"}
            self._last_budgets = budgets_today(await self._budgets.standings(own))
            self._budgets_read_at = time.monotonic()
        return self._last_budgets

    async def _queue_waits(self, now: datetime) -> list[int]:
        """How long requests that ended lately had waited; what ended last expires last."""
        until = now + self._result_ttl
        ended = {"expires_at": {"$gt": until - TIMED, "$lte": until}, "timings": {"$exists": True}}
        found = self._mongo.requests.find(ended, {"_id": 0, "timings.queued_ms": 1})
        return [
            entry["timings"]["queued_ms"] async for entry in found.sort("expires_at", -1).limit(MOST_TIMED)
        ]

    async def _provider_times(self, now: datetime) -> list[int]:
        answered = {"outcome": "ok", "occurred_at": {"$gt": now - TIMED}}
        found = self._mongo.usage.find(answered, {"_id": 0, "latency_ms": 1})
        return [row["latency_ms"] async for row in found.sort("occurred_at", -1).limit(MOST_TIMED)]

    async def _keys(self) -> dict[str, int]:
        stages = [{"$group": {"_id": "$status", "count": {"$sum": 1}}}]
        return {group["_id"]: group["count"] async for group in self._mongo.keys.aggregate(stages)}

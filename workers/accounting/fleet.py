"""The state of the whole fleet as it is now: lanes, keys, budgets, processes, open alerts.

Whatever MongoDB or RabbitMQ does not tell is None, so that no old value is taken for a new one.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from contracts import names
from infra.automation_documents import AutomationDocuments
from infra.errors import BrokerError
from infra.lanes import Age, QueueState, QueueWatch
from infra.living_processes import living, living_workers
from infra.mongo import Document, Mongo, PyMongoError
from infra.totals import COST_FIELDS, readable_costs
from workers.accounting.automation import FIELDS, StoredAutomation
from workers.budgets.budget import Budget
from workers.budgets.stored_budgets import readable_budgets
from workers.keys.loads import KeyLoad, key_loads

log = structlog.get_logger()

#: How long MongoDB and RabbitMQ may take to answer, in seconds; under Prometheus' own patience of 10.
TIMEOUT_S = 8.0
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Automation:
    """An automation, and whether it is served."""

    id: str
    enabled: bool
    paused: bool
    #: Since its last heartbeat, in seconds; None: it never sent one.
    silent_s: float | None
    #: Processes that are alive, by their heartbeats.
    processes: int
    #: What its attempts of the UTC day cost, by the books, in nano-USD.
    cost_today: int


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """How much of a budget is spent; of those for users, the fullest of an automation."""

    automation_id: str
    scope: str
    #: The key's alias, of a key's budget.
    key: str
    window: str
    spent_ratio: float
    soft_ratio: float
    limit_nanousd: int


@dataclass(frozen=True, slots=True)
class Books:
    """What MongoDB says."""

    automations: list[Automation]
    keys: list[KeyLoad]
    budgets: list[BudgetUse]
    #: How many generation workers are alive.
    workers: int
    #: How many alerts are open, by kind.
    alerts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Queues:
    """What RabbitMQ says: each queue, and the age of the oldest in each lane and before accounting."""

    states: dict[str, QueueState]
    oldest: dict[str, Age]


@dataclass(frozen=True, slots=True)
class Fleet:
    """What both say."""

    books: Books | None = None
    queues: Queues | None = None


def fullest(budgets: Iterable[Budget], now: float) -> list[BudgetUse]:
    """How much is spent of each budget; of those for users, of which there may be many, of the fullest.

    Args:
        budgets: all.
        now: the time, in seconds since the epoch.
    """
    found: dict[tuple[str, ...], BudgetUse] = {}
    for budget in budgets:
        use = BudgetUse(
            budget.automation_id,
            budget.scope,
            budget.label if budget.scope == "key" else "",
            budget.window,
            budget.spent_at(now) / budget.limit,
            budget.soft_percent / 100,
            budget.limit,
        )
        identity = use.automation_id, use.scope, use.key, use.window
        other = found.get(identity)
        if other is None or _fullness(use) > _fullness(other):
            found[identity] = use
    return list(found.values())


def _fullness(use: BudgetUse) -> float:
    return use.spent_ratio / use.soft_ratio


class FleetReader:
    """Reads the fleet."""

    def __init__(self, mongo: Mongo, watch: QueueWatch) -> None:
        """Take the database, and what watches the queues."""
        self._mongo = mongo
        self._watch = watch
        self._documents = AutomationDocuments(StoredAutomation)

    async def read(self) -> Fleet:
        """Ask both, side by side."""
        books, queues = await asyncio.gather(_or_none(self._books()), _or_none(self._queues()))
        return Fleet(books, queues)

    async def _queues(self) -> Queues:
        states = await self._watch.queues()
        lanes = (name for name in states if name.startswith(names.lane_queue("")))
        ages = {name: self._watch.oldest(name) for name in lanes}
        ages[names.ACCOUNTING_QUEUE] = self._watch.oldest_unbooked()
        return Queues(states, {name: age for name, age in ages.items() if age is not None})

    async def _books(self) -> Books:
        now = await self._mongo.server_time()
        automations, keys, budgets, workers, alerts = await asyncio.gather(
            self._automations(now),
            self._keys(),
            self._budgets(now),
            living_workers(self._mongo),
            self._alerts(),
        )
        return Books(automations, keys, budgets, workers, alerts)

    async def _automations(self, now: datetime) -> list[Automation]:
        processes = await living(self._mongo)
        today = {"dimension": "automation", "day": now.astimezone(UTC).date().isoformat()}
        totals = self._mongo.usage_daily.find(today, COST_FIELDS)
        costs = {total.automation_id: total.cost_nanousd for total in await readable_costs(totals)}
        documents = [document async for document in self._mongo.automations.find({}, FIELDS)]
        return [
            Automation(
                automation.id,
                automation.enabled,
                automation.paused,
                None if (seen := automation.last_heartbeat_at) is None else (now - seen).total_seconds(),
                len(processes.get(automation.id, ())),
                costs.get(automation.id, 0),
            )
            for automation in self._documents.readable(documents)
        ]

    async def _keys(self) -> list[KeyLoad]:
        return [load async for load in key_loads(self._mongo)]

    async def _budgets(self, now: datetime) -> list[BudgetUse]:
        budgets = await readable_budgets(self._mongo.budgets.find(), now.timestamp())
        return fullest(budgets, now.timestamp())

    async def _alerts(self) -> dict[str, int]:
        stages: list[Document] = [
            {"$match": {"resolved_at": None}},
            {"$group": {"_id": "$kind", "count": {"$sum": 1}}},
        ]
        return {group["_id"]: group["count"] async for group in self._mongo.alerts.aggregate(stages)}


async def _or_none(reading: Awaitable[Read]) -> Read | None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await reading
    except (PyMongoError, BrokerError, TimeoutError) as error:
        log.warning("fleet_not_read", error=type(error).__name__)
    except Exception:
        # What the other source says is told all the same.
        log.exception("fleet_not_read")
    return None

"""Budgets in a worker process: which there are, what its calls hold of them, and who waits for room.

Calls that arrive while one update of a budget is under way are admitted together by the next
(`infra.group_commit`). Where there is no budget, nothing is asked.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import structlog

from infra.background_tasks import BackgroundTasks
from infra.group_commit import GroupCommit
from infra.isolated_writes import write_isolated
from infra.mongo import Mongo, PyMongoError
from infra.mongo_errors import may_pass
from workers.budgets.budget import HELD_FRESH_S, WINDOWS, Budget, Scope, budget_id
from workers.budgets.reservations import (
    Claim,
    Spending,
    lend,
    load_budgets,
    renew_budget_holds,
    settle,
    take,
)
from workers.keys.holds import Holds
from workers.keys.leases import LeasedKey
from workers.keys.selection import Ask, Later, Refusal, RefusalReason, over_budget

log = structlog.get_logger()

#: An automation's budgets are read again after so long, in case an event was missed, in seconds.
RELOAD_S = 25.0

Claims: TypeAlias = tuple[Claim, ...]
#: What a budget answers to a call: what it holds now, or the budget as it is.
Taken: TypeAlias = Claim | Budget | None


@dataclass(slots=True)
class _AutomationBudgets:
    """One automation's budgets as last seen."""

    budgets: dict[str, Budget] = field(default_factory=dict)
    #: The ids of each key's budgets, by key id.
    of_keys: dict[str, list[str]] = field(default_factory=dict)
    loaded_at: float = float("-inf")
    loading: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class BudgetKeeper:
    """Budgets of all automations, for one worker process."""

    def __init__(
        self,
        mongo: Mongo,
        worker_id: str,
        now: Callable[[], float],
    ) -> None:
        """Take where budgets are.

        Args:
            mongo: the database.
            worker_id: under which this process holds what its calls may cost.
            now: the time on MongoDB's clock, in seconds since the epoch.
        """
        self._mongo = mongo
        self._now = now
        self._holds = Holds(worker_id, partial(renew_budget_holds, mongo))
        self._automations: dict[str, _AutomationBudgets] = {}
        self._tasks = BackgroundTasks("budgets")
        self._takes: dict[str, GroupCommit[int, Taken]] = {}
        self._settlements: dict[str, GroupCommit[Spending, None]] = {}

    async def close(self) -> None:
        """Settle what is to be settled."""
        await asyncio.gather(*(commit.drain() for commit in self._takes.values()))
        await asyncio.gather(*(commit.drain() for commit in self._settlements.values()))

    def invalidate(self, automation_id: str) -> None:
        """Read the automation's budgets again before its next call."""
        if seen := self._automations.get(automation_id):
            seen.loaded_at = float("-inf")
            seen.changed.set()

    async def load(self, automation_id: str, *, older_than_s: float) -> None:
        """Read an automation's budgets, if they were read longer ago; those who ask together read once.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        seen = self._automations.setdefault(automation_id, _AutomationBudgets())
        if seen.loading is None:
            if time.monotonic() - seen.loaded_at <= older_than_s:
                return
            seen.loading = self._tasks.start("load", self._load(automation_id, seen))
        await asyncio.shield(seen.loading)

    async def claim(self, automation_id: str, ask: Ask) -> Claims | Refusal | Later:
        """Hold what a call may cost of its automation's and its user's budgets, waiting for what others hold.

        Returns:
            What is held, which is nothing where there is no budget; or that one is spent; or when to ask
            again, if what others hold does not come back within the ask's patience.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        await self.load(automation_id, older_than_s=RELOAD_S)
        seen = self._automations[automation_id]
        while budgets := _of(automation_id, ask.user_id, seen.budgets):
            seen.changed.clear()
            taking = self._tasks.start("take", self._take_all(budgets, ask.cost_nanousd))
            try:
                taken = await asyncio.shield(taking)
            except asyncio.CancelledError:
                taking.add_done_callback(self._give_back)
                raise
            if isinstance(taken, tuple):
                return taken
            now = self._now()
            if spent := [budget for budget in taken if budget.is_spent(ask.cost_nanousd, now)]:
                return over_budget(spent, ask, now)
            if now >= ask.deadline:
                return Refusal(RefusalReason.DEADLINE_PASSED)
            if now >= ask.patience_until:
                return Later(now + HELD_FRESH_S)
            await _wait(seen.changed, HELD_FRESH_S)
            await self.load(automation_id, older_than_s=RELOAD_S)
        return ()

    def of_keys(self, automation_id: str) -> Mapping[str, Sequence[Budget]]:
        """The budgets of an automation's keys, by key id, as last seen."""
        seen = self._automations.get(automation_id)
        if seen is None:
            return {}
        return {
            key_id: [seen.budgets[identity] for identity in ids if identity in seen.budgets]
            for key_id, ids in seen.of_keys.items()
        }

    async def claim_of_key(self, budgets: Sequence[Budget], costs: Sequence[int]) -> list[Claims | None]:
        """Hold what calls with a key may cost of the key's budgets.

        Returns:
            What is held for each of the calls; None for those that do not fit.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        answers = await asyncio.gather(
            *(self._take_all(budgets, cost) for cost in costs), return_exceptions=True
        )
        claimed = [answer if isinstance(answer, tuple) else None for answer in answers]
        for answer in answers:
            if isinstance(answer, BaseException):
                self.release(claim for claims in claimed if claims for claim in claims)
                raise answer
        return claimed

    def settle(self, claims: Sequence[Claim], cost: int, at: float) -> "asyncio.Future[list[None]]":
        """Give back what a call held, and count what it cost.

        Args:
            claims: what it held.
            cost: of the call, in nano-USD.
            at: when it ended, in seconds since the epoch.

        Returns:
            Done when it is written, or left to accounting since MongoDB is away.
        """
        return asyncio.gather(*self._settle(claims, cost, at))

    def release(self, claims: Iterable[Claim]) -> None:
        """Give back what was held for a call that was not made."""
        self._settle(tuple(claims), 0, self._now())

    async def lend(self, claims: Sequence[Claim], lease: LeasedKey) -> None:
        """Have a lease take over what is held for it.

        Raises:
            PyMongoError: MongoDB is away or refused; what is held lapses.
        """
        for claim in claims:
            self._holds.give(claim.hold, 1)
        try:
            for claim in claims:
                await lend(self._mongo, claim, lease)
        except PyMongoError:
            self._holds.anew()
            raise

    async def renew(self) -> None:
        """Have what this process holds lapse later.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        await self._holds.renew()

    async def _load(self, automation_id: str, seen: _AutomationBudgets) -> None:
        # Before the read: what changes meanwhile is read again.
        seen.loaded_at = time.monotonic()
        asked_at = self._now()
        try:
            found = await load_budgets(self._mongo, automation_id)
        except PyMongoError:
            seen.loaded_at = float("-inf")
            raise
        finally:
            seen.loading = None
        seen.budgets = {budget.id: replace(budget, seen_at=asked_at) for budget in found}
        seen.of_keys = {}
        for budget in found:
            if budget.scope == "key":
                seen.of_keys.setdefault(budget.subject, []).append(budget.id)

    async def _take_all(self, budgets: Sequence[Budget], cost: int) -> Claims | list[Budget]:
        """Hold a call's cost of each budget, or of none; then those that had no room."""
        answers = await asyncio.gather(
            *(self._take(budget, cost) for budget in budgets), return_exceptions=True
        )
        claims = tuple(answer for answer in answers if isinstance(answer, Claim))
        full = [answer for answer in answers if isinstance(answer, Budget)]
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if full or errors:
            self.release(claims)
        if errors:
            raise errors[0]
        return full or claims

    def _take(self, budget: Budget, cost: int) -> "asyncio.Future[Taken]":
        commit = self._takes.get(budget.id)
        if commit is None:
            commit = self._takes[budget.id] = GroupCommit(partial(self._write_takes, budget))
        return commit.submit(cost)

    async def _write_takes(self, budget: Budget, costs: Sequence[int]) -> Sequence[Taken]:
        hold = self._holds.name
        asked_at = self._now()
        try:
            taken = await take(self._mongo, budget.id, hold, costs)
        except PyMongoError as error:
            if may_pass(error):
                self._holds.anew()
            raise
        if taken is None:
            self._automations[budget.automation_id].budgets.pop(budget.id, None)
            return [None] * len(costs)
        granted, seen = taken
        self._holds.take(hold, granted)
        self._see(seen, asked_at)
        claims = [Claim(seen.id, seen.window, hold, seen.charge(cost)) for cost in costs[:granted]]
        return [*claims, *[seen] * (len(costs) - granted)]

    def _settle(self, claims: Sequence[Claim], cost: int, at: float) -> "list[asyncio.Future[None]]":
        written = []
        for claim in claims:
            commit = self._settlements.get(claim.budget_id)
            if commit is None:
                commit = GroupCommit(partial(self._write_settlements, claim.budget_id))
                self._settlements[claim.budget_id] = commit
            written.append(commit.submit(Spending(claim, cost, at)))
        return written

    async def _write_settlements(self, budget_id: str, batch: Sequence[Spending]) -> Sequence[None]:
        by_hold: dict[str, list[Spending]] = {}
        for spending in batch:
            by_hold.setdefault(spending.claim.hold, []).append(spending)
        for hold, spent in by_hold.items():
            for answer in await write_isolated(partial(self._write_spent, budget_id, hold), spent):
                if isinstance(answer, Exception):
                    # What is held lapses; accounting counts what was spent, as far as it can be counted.
                    log.error("spending_refused", budget=budget_id, error=type(answer).__name__)
                    self._holds.anew()
            self._holds.give(hold, len(spent))
        return [None] * len(batch)

    async def _write_spent(self, budget_id: str, hold: str, batch: Sequence[Spending]) -> Sequence[None]:
        asked_at = self._now()
        try:
            seen = await settle(self._mongo, budget_id, hold, batch)
        except PyMongoError as error:
            if not may_pass(error):
                raise
            # Nobody knows whether it was written: what is held lapses, and accounting counts what was spent.
            log.warning("spending_not_settled", budget=budget_id, error=type(error).__name__)
            self._holds.anew()
        else:
            if seen is not None:
                self._see(seen, asked_at)
        return [None] * len(batch)

    def _see(self, budget: Budget, asked_at: float) -> None:
        seen = self._automations.get(budget.automation_id)
        if seen is not None:
            # On this process's clock, by which it is read again.
            seen.budgets[budget.id] = replace(budget, seen_at=asked_at)
            seen.changed.set()

    def _give_back(self, taking: "asyncio.Task[Claims | list[Budget]]") -> None:
        if not taking.cancelled() and taking.exception() is None:
            taken = taking.result()
            if isinstance(taken, tuple):
                self.release(taken)


def _of(automation_id: str, user_id: str | None, budgets: Mapping[str, Budget]) -> list[Budget]:
    """The budgets that a call counts in whichever key it is made with."""
    if not budgets:
        return []
    subjects: list[tuple[Scope, str]] = [("automation", automation_id)]
    if user_id is not None:
        subjects.append(("user", user_id))
    ids = [budget_id(scope, window, automation_id, of) for scope, of in subjects for window in WINDOWS]
    return [budgets[identity] for identity in ids if identity in budgets]


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()

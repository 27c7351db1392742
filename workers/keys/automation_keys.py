"""One automation's keys: as this worker saw them last, and who waits for one, served in rounds.

Asks that arrive together are planned together (`selection.plan`) and reserved with one update a key
(`reservations.reserve`), and a few calls ahead with them (`blocks.py`), so that a busy worker asks MongoDB
once for many requests, and a lone request waits for nothing.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from infra.background_tasks import BackgroundTasks
from infra.mongo import Mongo
from workers.budgets.keeper import BudgetKeeper, Claims
from workers.keys.blocks import BLOCK_S, Block, Blocks
from workers.keys.call_slots import CallSlots
from workers.keys.counted_models import CountedModels
from workers.keys.holds import Holds
from workers.keys.key import Key
from workers.keys.limits import calls_that_fit, chargeable
from workers.keys.reservations import load_keys, reserve
from workers.keys.selection import Ask, Later, Plan, Refusal, plan
from workers.keys.server_clock import ServerClock
from workers.keys.settlements import Settlement
from workers.keys.settler import Settled, Settler
from workers.keys.slots import take_slots

#: An automation's keys are read again after so long, in case an event was missed, in seconds.
RELOAD_S = 25.0
#: Nobody is refused by a view of the keys that is older, in seconds.
FRESH_S = 0.1


@dataclass(frozen=True, slots=True)
class Reservation:
    """A key, reserved for one call; give it back with `KeyPool.settle`.

    Attributes:
        key: as it was when the call was reserved.
        second: in which the call counts, in seconds since the epoch on MongoDB's clock.
        tokens: that are reserved.
        model: under which the call is counted (`counted_models`); empty where none was named.
        hold: under which name the call is held in the key's document.
        since: a moment on this process's monotonic clock that is no later than the start of `second`.
        slot: whether it holds one of the automation's own slots too.
        claims: what it holds of budgets.
    """

    key: Key
    second: int
    tokens: int
    model: str
    hold: str
    since: float
    slot: bool = False
    claims: Claims = ()

    def age_s(self, monotonic: float) -> float:
        """How long ago its second began, at most, in seconds; however late MongoDB's answer came.

        Args:
            monotonic: this process's monotonic clock now, in seconds.
        """
        return monotonic - self.since


Reserved: TypeAlias = Reservation | Refusal | Later


@dataclass(frozen=True, slots=True)
class PoolParts:
    """What all automations of a pool share."""

    mongo: Mongo
    clock: ServerClock
    budgets: BudgetKeeper
    holds: Holds
    settler: Settler
    call_slots: CallSlots
    tasks: BackgroundTasks


@dataclass(slots=True)
class _Waiter:
    ask: Ask
    answer: "asyncio.Future[Reserved]"


class AutomationKeys:
    """The keys of one automation, for one worker process.

    Args:
        automation_id: whose keys.
        parts: of the pool.
        release: gives back a reservation whose call is not made.

    Attributes:
        keys: as last seen, by id.
        models: which of its models are counted by themselves.
    """

    def __init__(
        self, automation_id: str, parts: PoolParts, release: Callable[[Reservation], object]
    ) -> None:
        self._id = automation_id
        self._parts = parts
        self._now = parts.clock.now
        self._release = release
        self.keys: dict[str, Key] = {}
        self.models = CountedModels()
        self._loaded_at = float("-inf")
        self._ahead = Blocks(self._give_back)
        self._max_in_flight: int | None = None
        self._waiting: list[_Waiter] = []
        self._changed = asyncio.Event()
        self._server: asyncio.Task[None] | None = None

    @property
    def calls_ahead(self) -> int:
        """How many calls are reserved and nobody's yet."""
        return self._ahead.calls

    def calls_that_fit(self) -> int:
        """How many more calls the keys have room for, as last seen; 0 while one waits here."""
        if any(not waiter.answer.done() for waiter in self._waiting):
            return 0
        now = self._now()
        return sum(calls_that_fit(key, now) for key in self.keys.values())

    def latency_s(self) -> float:
        """How long a call takes, smoothed, with the slowest key; 0 where there was none."""
        return max((key.latency_ms / 1000 for key in self.keys.values()), default=0.0)

    def learn(self, key: Key) -> None:
        """Take a newer view of a key, unless it is gone."""
        if key.id in self.keys:
            self.keys[key.id] = key
            self._changed.set()

    def invalidate(self) -> None:
        """Read the keys again before the next reservation."""
        self._loaded_at = float("-inf")
        self._ahead.end_all()
        self._changed.set()

    async def close(self) -> None:
        """Serve nobody any more, and give back what is reserved ahead."""
        if self._server is not None:
            self._server.cancel()
            await asyncio.gather(self._server, return_exceptions=True)
        self._ahead.end_all()

    async def reserve(self, ask: Ask, max_in_flight: int | None) -> Reserved:
        """Reserve the best key for a call, waiting for room until the ask's deadline or patience ends.

        Args:
            ask: what is needed.
            max_in_flight: the automation's own cap on calls in flight, as it stands now.

        Raises:
            PyMongoError: MongoDB is away.
        """
        self._max_in_flight = max_in_flight
        self._ahead.note(ask, self._now())
        if not self._waiting and (ahead := self._take_ahead(ask)) is not None:
            return ahead
        waiter = _Waiter(ask, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._changed.set()
        if self._server is None:
            self._server = self._parts.tasks.start(f"keys of {self._id}", self._serve())
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise

    def _take_ahead(self, ask: Ask) -> Reservation | None:
        """Serve an ask from what is reserved ahead."""
        if self._max_in_flight is not None or time.monotonic() - self._loaded_at > RELOAD_S:
            return None
        slots = self._parts.call_slots
        if not slots.has_one_for(self._id):
            return None
        taken = self._ahead.take(ask, self.keys, self._now())
        if taken is None:
            return None
        slots.take(self._id, 1, self._changed.set)
        block, tokens = taken
        key = self.keys[block.key.id]
        return Reservation(key, block.second, tokens, block.model, block.hold, block.since)

    def _give_back(self, block: Block) -> None:
        left = Settlement(block.second, block.tokens, 0, block.model, unmade=block.calls)
        self._parts.settler.submit(Settled(block.key, block.hold, left))

    def _abandon(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if waiter.answer.done() and not waiter.answer.cancelled() and waiter.answer.exception() is None:
            answer = waiter.answer.result()
            if isinstance(answer, Reservation):
                self._release(answer)
        self._changed.set()

    async def _serve(self) -> None:
        try:
            while True:
                self._waiting = [waiter for waiter in self._waiting if not waiter.answer.done()]
                if not self._waiting:
                    return
                self._changed.clear()
                await self._serve_once()
        except Exception as error:  # noqa: BLE001  # whoever waits gets it
            self._parts.holds.anew()
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                if not waiter.answer.done():
                    waiter.answer.set_exception(error)
        finally:
            self._parts.call_slots.leave(self._id)
            self._server = None

    async def _serve_once(self) -> None:
        """One round: refuse whom nothing can serve, reserve where there are room and slots, else wait."""
        if time.monotonic() - self._loaded_at > RELOAD_S:
            await self._load()
        self._serve_ahead()
        batch = [waiter for waiter in self._waiting if not waiter.answer.done()]
        if not batch:
            return
        asks = [waiter.ask for waiter in batch]
        planned = self._plan(asks)
        if planned.refuse and time.monotonic() - self._loaded_at > FRESH_S:
            # A refusal is final: an operator may just have added or enabled a key.
            await self._load()
            planned = self._plan(asks)
        wanted = planned.calls
        taken = self._take_call_slots(wanted)
        if taken < wanted:
            planned = self._plan(asks, taken)
        own = None
        if planned.reserve and self._max_in_flight is not None:
            own, planned = await self._take_own_slots(asks, planned, taken)
        self._parts.call_slots.give(taken - planned.calls)
        for index, answer in (planned.refuse | planned.put_off).items():
            if not batch[index].answer.done():
                batch[index].answer.set_result(answer)
        if planned.reserve:
            used = await self._reserve_planned(batch, planned, slot=own is not None)
            if own is not None and own > used:
                await self._parts.settler.give_slots(self._id, self._parts.holds.name, own - used)
        elif not planned.refuse and not planned.put_off:
            if wanted and not taken:
                await self._wait_for_slot(asks)
            elif planned.look_again_at is not None:
                await self._wait(planned.look_again_at - self._now())

    def _take_call_slots(self, wanted: int) -> int:
        """Take this worker's slots for calls that are about to be reserved, or wait for them in line."""
        if wanted:
            return self._parts.call_slots.take(self._id, wanted, self._changed.set)
        self._parts.call_slots.leave(self._id)
        return 0

    async def _take_own_slots(self, asks: Sequence[Ask], planned: Plan, taken: int) -> tuple[int, Plan]:
        """Take slots of the automation's own cap.

        Returns:
            How many there were, and the plan for so many.
        """
        try:
            own = await take_slots(self._parts.mongo, self._id, self._parts.holds.name, planned.calls)
        except BaseException:
            self._parts.call_slots.give(taken)
            raise
        return own, planned if own == planned.calls else self._plan(asks, own)

    def _serve_ahead(self) -> None:
        """Serve who waits from what is reserved ahead, as far as that goes, in order."""
        for waiter in self._waiting:
            if waiter.answer.done():
                continue
            ahead = self._take_ahead(waiter.ask)
            if ahead is None:
                return
            waiter.answer.set_result(ahead)

    def _plan(self, asks: Sequence[Ask], slots: int | None = None) -> Plan:
        budgets = self._parts.budgets.of_keys(self._id)
        return plan(asks, self.keys.values(), self._now(), slots=slots, budgets=budgets)

    async def _reserve_planned(self, batch: list[_Waiter], planned: Plan, *, slot: bool) -> int:
        """Reserve on each key what was planned for it, a model at a time; how many were admitted.

        Each call that was planned has one of this worker's slots; those that are not admitted give it back.
        """
        groups: dict[tuple[str, str], list[_Waiter]] = {}
        for key_id, indices in planned.reserve.items():
            for index in indices:
                model = self.models.counted_as(batch[index].ask.model)
                groups.setdefault((key_id, model), []).append(batch[index])
        best: dict[str, str] = {}
        for key_id, model in groups:
            best.setdefault(model, key_id)
        return sum(
            await asyncio.gather(
                *(
                    self._reserve_on(
                        key_id, model, waiters, slot=slot, ahead=not slot and best[model] == key_id
                    )
                    for (key_id, model), waiters in groups.items()
                )
            )
        )

    async def _load(self) -> None:
        asked_at = self._loaded_at = time.monotonic()
        loaded, server_time = await load_keys(self._parts.mongo, self._id)
        if server_time is not None:
            self._parts.clock.set(server_time, asked_at)
        await self._parts.budgets.load(self._id, older_than_s=FRESH_S)
        self.keys = {key.id: key for key in loaded}

    async def _reserve_on(
        self, key_id: str, model: str, waiters: list[_Waiter], *, slot: bool, ahead: bool
    ) -> int:
        admitted = 0
        try:
            admitted = await self._admit(key_id, model, waiters, slot=slot, ahead=ahead)
        finally:
            self._parts.call_slots.give(len(waiters) - admitted)
        return admitted

    async def _admit(
        self, key_id: str, model: str, waiters: list[_Waiter], *, slot: bool, ahead: bool
    ) -> int:
        key = self.keys[key_id]
        claims: list[Claims] = [()] * len(waiters)
        if budgets := self._parts.budgets.of_keys(self._id).get(key_id):
            costs = [waiter.ask.cost_nanousd for waiter in waiters]
            claimed = await self._parts.budgets.claim_of_key(budgets, costs)
            waiters = [waiter for waiter, held in zip(waiters, claimed, strict=True) if held is not None]
            claims = [held for held in claimed if held is not None]
            if not waiters:
                return 0
        token_counts = [chargeable(key, waiter.ask.tokens, model, self._now()) for waiter in waiters]
        more = self._ahead.wanted(key, model, token_counts, self._now()) if ahead and not budgets else []
        # Without a slot they could not be called for in time.
        more = more[: self._parts.call_slots.free]
        hold = self._parts.holds.name
        reserved = None
        asked_at = time.monotonic()
        try:
            reserved = await reserve(self._parts.mongo, key_id, hold, model, token_counts + more)
        finally:
            granted = 0 if reserved is None else reserved[0]
            self._parts.budgets.release(claim for held in claims[granted:] for claim in held)
        if reserved is None:
            self._loaded_at = float("-inf")
            return 0
        _, key, server_time = reserved
        self._parts.holds.take(hold, granted)
        self._parts.clock.set(server_time, asked_at)
        self.keys[key_id] = key
        second = key.window[-1].second if granted else 0
        since = asked_at - max(0.0, server_time - second)
        for waiter, tokens, held in zip(waiters[:granted], token_counts, claims, strict=False):
            reservation = Reservation(key, second, tokens, model, hold, since, slot, held)
            if waiter.answer.done():
                self._release(reservation)
            else:
                waiter.answer.set_result(reservation)
        if calls := max(0, granted - len(waiters)):
            until = server_time + BLOCK_S
            block = Block(key, hold, second, model, calls, calls * more[0], until, since)
            self._ahead.begin(block, self._now())
        return granted - calls

    async def _wait_for_slot(self, asks: Sequence[Ask]) -> None:
        """Wait for this worker's turn in the line, until the first ask is to be put off or refused."""
        until = min(min(ask.patience_until, ask.deadline) for ask in asks)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(until - self._now(), 0.01), RELOAD_S)):
                await self._changed.wait()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(max(seconds, 0.01), RELOAD_S)):
                await self._changed.wait()
        except TimeoutError:
            # Room may have come back in another worker.
            self._loaded_at = float("-inf")

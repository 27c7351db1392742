"""The key pool: reserves the best key of an automation for a request, waits for one, and settles afterwards.

Asks that arrive together are planned together (`selection.plan`) and reserved with one update a key
(`reservations.reserve`), and a few calls ahead with them (`blocks.py`), so that a busy worker asks MongoDB
once for many requests, and a lone request waits for nothing.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import structlog

from infra.mongo import Mongo, PyMongoError
from workers.budgets.keeper import BudgetKeeper, Claims
from workers.keys.blocks import BLOCK_S, Block, Blocks
from workers.keys.holds import Holds
from workers.keys.key import Key
from workers.keys.leases import Held, LeasedKey, begin_lease, begin_slot
from workers.keys.limits import calls_that_fit, chargeable, used_in_window
from workers.keys.reported import is_news
from workers.keys.reservations import load_keys, reserve
from workers.keys.selection import Ask, Later, Plan, Refusal, plan
from workers.keys.settlements import Settlement
from workers.keys.settler import Settled, Settler
from workers.keys.slots import take_slots

log = structlog.get_logger()

#: An automation's keys are read again after so long, in case an event was missed, in seconds.
RELOAD_S = 25.0
#: Nobody is refused by a view of the keys that is older, in seconds.
FRESH_S = 0.1
#: How often holds are renewed; well under `expressions.HOLD_S`.
RENEW_S = 30.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """A key, reserved for one call; give it back with `KeyPool.settle`."""

    key: Key
    second: int
    tokens: int
    model: str
    #: Under which name the call is held in the key's document.
    hold: str
    #: Whether it holds one of the automation's own slots too.
    slot: bool = False
    #: What it holds of budgets.
    claims: Claims = ()


Reserved: TypeAlias = Reservation | Refusal | Later


@dataclass(slots=True)
class _Waiter:
    ask: Ask
    answer: "asyncio.Future[Reserved]"


@dataclass(slots=True)
class _AutomationKeys:
    """One automation's keys as last seen, what is reserved of them ahead, and who waits for one, in order."""

    ahead: Blocks
    keys: dict[str, Key] = field(default_factory=dict)
    max_in_flight: int | None = None
    loaded_at: float = float("-inf")
    waiting: list[_Waiter] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Task[None] | None = None


class KeyPool:
    """Keys of all automations, for one worker process.

    Args:
        mongo: where the keys are.
        worker_id: under which this process holds its reservations.
        clock: monotonic seconds.
    """

    def __init__(self, mongo: Mongo, worker_id: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._mongo = mongo
        self._clock = clock
        self._server_offset = time.time() - clock()
        self._automations: dict[str, _AutomationKeys] = {}
        self._budgets = BudgetKeeper(mongo, worker_id, self.now, clock=clock)
        self._holds = Holds(mongo, worker_id)
        self._settler = Settler(mongo, self._holds, view=self._view, learn=self._learn, now=self.now)
        self._renewal: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Set the clock by MongoDB's, and begin to renew this worker's holds.

        Raises:
            PyMongoError: MongoDB is away.
        """
        self._server_offset = (await self._mongo.server_time()).timestamp() - self._clock()
        self._renewal = asyncio.create_task(self._renew())

    async def close(self) -> None:
        """Settle what is to be settled, and stop."""
        tasks = [self._renewal, *(keys.server for keys in self._automations.values())]
        for task in filter(None, tasks):
            task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)
        for keys in self._automations.values():
            keys.ahead.end_all()
        await self._settler.drain()
        await self._budgets.close()

    def now(self) -> float:
        """The time on MongoDB's clock, in seconds since the epoch."""
        return self._clock() + self._server_offset

    @property
    def held_calls(self) -> int:
        """How many calls are reserved here and not settled, those ahead aside."""
        return self._holds.calls - sum(keys.ahead.calls for keys in self._automations.values())

    def calls_that_fit(self, automation_id: str) -> int:
        """How many more calls the automation's keys have room for, as last seen; 0 while one waits here."""
        keys = self._automations.get(automation_id)
        if keys is None or any(not waiter.answer.done() for waiter in keys.waiting):
            return 0
        now = self.now()
        return sum(calls_that_fit(key, now) for key in keys.keys.values())

    def latency_s(self, automation_id: str) -> float:
        """How long a call of the automation takes, smoothed, with its slowest key; 0 where there was none."""
        keys = self._automations.get(automation_id)
        return max((key.latency_ms / 1000 for key in keys.keys.values()), default=0.0) if keys else 0.0

    async def reserve(self, automation_id: str, ask: Ask, max_in_flight: int | None = None) -> Reserved:
        """Reserve the best key for a call, waiting for room until the deadline.

        Args:
            automation_id: whose keys.
            ask: what is needed.
            max_in_flight: the automation's own cap on calls in flight, as it stands now.

        Returns:
            The reservation; or why no key will serve before the deadline; or when one may, if that is
            beyond the ask's patience.

        Raises:
            PyMongoError: MongoDB is away.
        """
        claims = await self._budgets.claim(automation_id, ask)
        if not isinstance(claims, tuple):
            return claims
        reserved: Reserved | None = None
        try:
            reserved = await self._reserve_key(automation_id, ask, max_in_flight)
        finally:
            if claims and not isinstance(reserved, Reservation):
                self._budgets.release(claims)
        if claims and isinstance(reserved, Reservation):
            return replace(reserved, claims=(*reserved.claims, *claims))
        return reserved

    async def _reserve_key(self, automation_id: str, ask: Ask, max_in_flight: int | None) -> Reserved:
        keys = self._automations.get(automation_id)
        if keys is None:
            keys = self._automations[automation_id] = _AutomationKeys(Blocks(self._give_back))
        keys.max_in_flight = max_in_flight
        keys.ahead.note(ask, self.now())
        if not keys.waiting and (ahead := self._take_ahead(keys, ask)) is not None:
            return ahead
        waiter = _Waiter(ask, asyncio.get_running_loop().create_future())
        keys.waiting.append(waiter)
        keys.changed.set()
        if keys.server is None:
            keys.server = asyncio.create_task(self._serve(automation_id, keys))
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            self._abandon(keys, waiter)
            raise

    def settle(self, reservation: Reservation, settlement: Settlement) -> "asyncio.Future[None]":
        """Give a reservation back and count what was used.

        Returns:
            Done when it is written; await it where the next reservation must see it (a cooldown).
        """
        news = self._only_news(reservation, settlement)
        settled = self._settler.submit(Settled(reservation.key, reservation.hold, news, reservation.slot))
        if not reservation.claims:
            return settled
        spent = self._budgets.settle(reservation.claims, settlement.cost_nanousd, self.now())
        return asyncio.create_task(_both(spent, settled))

    def release(self, reservation: Reservation) -> None:
        """Give back a reservation whose call was not made."""
        unmade = Settlement(reservation.second, reservation.tokens, 0, reservation.model, unmade=1)
        self.settle(reservation, unmade)

    async def lend(self, reservation: Reservation, lease: LeasedKey) -> bool:
        """Have a lease take a reservation over, so that it counts whether this worker lives or not.

        Returns:
            Whether the key may be given away. Where it was stopped meanwhile, the reservation is given back.

        Raises:
            PyMongoError: MongoDB is away; the reservation lapses.
        """
        hold = reservation.hold
        held = Held(hold, reservation.second, reservation.tokens, reservation.model)
        try:
            is_lent = await begin_lease(self._mongo, lease, held)
            if is_lent and reservation.slot:
                await begin_slot(self._mongo, lease, hold)
        except PyMongoError:
            if self._holds.name == hold:
                self._holds.anew()
            self._holds.give(hold, 1)
            self._budgets.release(reservation.claims)
            raise
        if is_lent:
            self._holds.give(hold, 1)
            await self._budgets.lend(reservation.claims, lease)
        else:
            self.release(reservation)
        self.invalidate(reservation.key.automation_id)
        return is_lent

    def _only_news(self, reservation: Reservation, settlement: Settlement) -> Settlement:
        """What the provider says of its limits is written down only where it is not known already."""
        word = settlement.rate_limits
        if word is None:
            return settlement
        key = self._view(reservation.key) or reservation.key
        now, model = self.now(), reservation.model
        if is_news(key.reported.get(model), word, used_in_window(key, now, model), now):
            return settlement
        return replace(settlement, rate_limits=None)

    def invalidate(self, automation_id: str) -> None:
        """Read the automation's keys and budgets again before the next reservation."""
        self._budgets.invalidate(automation_id)
        if keys := self._automations.get(automation_id):
            keys.loaded_at = float("-inf")
            keys.ahead.end_all()
            keys.changed.set()

    def _view(self, key: Key) -> Key | None:
        """The key as last seen; None where it is gone."""
        keys = self._automations.get(key.automation_id)
        return None if keys is None else keys.keys.get(key.id)

    def _learn(self, key: Key) -> None:
        """Take a newer view of a key, unless it is gone."""
        keys = self._automations.get(key.automation_id)
        if keys is not None and key.id in keys.keys:
            keys.keys[key.id] = key
            keys.changed.set()

    def _take_ahead(self, keys: _AutomationKeys, ask: Ask) -> Reservation | None:
        """Serve an ask from what is reserved ahead."""
        if keys.max_in_flight is not None or self._clock() - keys.loaded_at > RELOAD_S:
            return None
        taken = keys.ahead.take(ask, keys.keys, self.now())
        if taken is None:
            return None
        block, tokens = taken
        return Reservation(keys.keys[block.key.id], block.second, tokens, block.model, block.hold)

    def _give_back(self, block: Block) -> None:
        left = Settlement(block.second, block.tokens, 0, block.model, unmade=block.calls)
        self._settler.submit(Settled(block.key, block.hold, left))

    def _abandon(self, keys: _AutomationKeys, waiter: _Waiter) -> None:
        if waiter in keys.waiting:
            keys.waiting.remove(waiter)
        if waiter.answer.done() and not waiter.answer.cancelled() and waiter.answer.exception() is None:
            answer = waiter.answer.result()
            if isinstance(answer, Reservation):
                self.release(answer)
        keys.changed.set()

    async def _serve(self, automation_id: str, keys: _AutomationKeys) -> None:
        try:
            while True:
                keys.waiting = [waiter for waiter in keys.waiting if not waiter.answer.done()]
                if not keys.waiting:
                    return
                keys.changed.clear()
                await self._serve_once(automation_id, keys)
        except Exception as error:  # noqa: BLE001  # whoever waits gets it
            self._holds.anew()
            waiting, keys.waiting = keys.waiting, []
            for waiter in waiting:
                if not waiter.answer.done():
                    waiter.answer.set_exception(error)
        finally:
            keys.server = None

    async def _serve_once(self, automation_id: str, keys: _AutomationKeys) -> None:
        """One round: refuse whom nothing can serve, reserve where there is room, else wait."""
        if self._clock() - keys.loaded_at > RELOAD_S:
            await self._load(automation_id, keys)
        self._serve_ahead(keys)
        batch = [waiter for waiter in keys.waiting if not waiter.answer.done()]
        if not batch:
            return
        asks = [waiter.ask for waiter in batch]
        planned = self._plan(automation_id, asks)
        if planned.refuse and self._clock() - keys.loaded_at > FRESH_S:
            # A refusal is final: an operator may just have added or enabled a key.
            await self._load(automation_id, keys)
            planned = self._plan(automation_id, asks)
        slots = None
        if planned.reserve and keys.max_in_flight is not None:
            wanted = sum(map(len, planned.reserve.values()))
            slots = await take_slots(self._mongo, automation_id, self._holds.name, wanted)
            if slots < wanted:
                planned = self._plan(automation_id, asks, slots)
        for index, answer in (planned.refuse | planned.put_off).items():
            if not batch[index].answer.done():
                batch[index].answer.set_result(answer)
        if planned.reserve:
            used = await self._reserve_planned(keys, batch, planned, slot=slots is not None)
            if slots is not None and slots > used:
                await self._settler.give_slots(automation_id, self._holds.name, slots - used)
        elif not planned.refuse and not planned.put_off and planned.look_again_at is not None:
            await self._wait(keys, planned.look_again_at - self.now())

    def _serve_ahead(self, keys: _AutomationKeys) -> None:
        """Serve who waits from what is reserved ahead, as far as that goes, in order."""
        for waiter in keys.waiting:
            if waiter.answer.done():
                continue
            ahead = self._take_ahead(keys, waiter.ask)
            if ahead is None:
                return
            waiter.answer.set_result(ahead)

    def _plan(self, automation_id: str, asks: Sequence[Ask], slots: int | None = None) -> Plan:
        keys = self._automations[automation_id].keys.values()
        budgets = self._budgets.of_keys(automation_id)
        return plan(asks, keys, self.now(), slots=slots, budgets=budgets)

    async def _reserve_planned(
        self, keys: _AutomationKeys, batch: list[_Waiter], planned: Plan, *, slot: bool
    ) -> int:
        """Reserve on each key what was planned for it, a model at a time; how many were admitted."""
        groups: dict[tuple[str, str], list[_Waiter]] = {}
        for key_id, indices in planned.reserve.items():
            for index in indices:
                groups.setdefault((key_id, batch[index].ask.model or ""), []).append(batch[index])
        best: dict[str, str] = {}
        for key_id, model in groups:
            best.setdefault(model, key_id)
        return sum(
            await asyncio.gather(
                *(
                    self._reserve_on(
                        keys, key_id, model, waiters, slot=slot, ahead=not slot and best[model] == key_id
                    )
                    for (key_id, model), waiters in groups.items()
                )
            )
        )

    async def _load(self, automation_id: str, keys: _AutomationKeys) -> None:
        keys.loaded_at = self._clock()
        loaded, server_time = await load_keys(self._mongo, automation_id)
        await self._budgets.load(automation_id, older_than_s=FRESH_S)
        if server_time is not None:
            self._server_offset = server_time - self._clock()
        keys.keys = {key.id: key for key in loaded}

    async def _reserve_on(
        self,
        keys: _AutomationKeys,
        key_id: str,
        model: str,
        waiters: list[_Waiter],
        *,
        slot: bool,
        ahead: bool,
    ) -> int:
        key = keys.keys[key_id]
        claims: list[Claims] = [()] * len(waiters)
        if budgets := self._budgets.of_keys(key.automation_id).get(key_id):
            costs = [waiter.ask.cost_nanousd for waiter in waiters]
            claimed = await self._budgets.claim_of_key(budgets, costs)
            waiters = [waiter for waiter, held in zip(waiters, claimed, strict=True) if held is not None]
            claims = [held for held in claimed if held is not None]
            if not waiters:
                return 0
        token_counts = [chargeable(key, waiter.ask.tokens, model, self.now()) for waiter in waiters]
        more = keys.ahead.wanted(key, model, token_counts, self.now()) if ahead and not budgets else []
        hold = self._holds.name
        reserved = None
        try:
            reserved = await reserve(self._mongo, key_id, hold, model, token_counts + more)
        finally:
            granted = 0 if reserved is None else reserved[0]
            self._budgets.release(claim for held in claims[granted:] for claim in held)
        if reserved is None:
            keys.loaded_at = float("-inf")
            return 0
        _, key, server_time = reserved
        self._holds.take(hold, granted)
        self._server_offset = server_time - self._clock()
        keys.keys[key_id] = key
        for waiter, tokens, held in zip(waiters[:granted], token_counts, claims, strict=False):
            reservation = Reservation(key, key.window[-1].second, tokens, model, hold, slot, held)
            if waiter.answer.done():
                self.release(reservation)
            else:
                waiter.answer.set_result(reservation)
        if calls := max(0, granted - len(waiters)):
            until = server_time + BLOCK_S
            block = Block(key, hold, key.window[-1].second, model, calls, calls * more[0], until)
            keys.ahead.begin(block)
        return granted - calls

    async def _wait(self, keys: _AutomationKeys, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(max(seconds, 0.01), RELOAD_S)):
                await keys.changed.wait()
        except TimeoutError:
            # Room may have come back in another worker.
            keys.loaded_at = float("-inf")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._holds.renew()
                await self._budgets.renew()
            except PyMongoError as error:
                log.warning("holds_not_renewed", error=type(error).__name__)


async def _both(spent: "asyncio.Future[list[None]]", settled: "asyncio.Future[None]") -> None:
    await spent
    await settled

"""The key pool: reserves the best key of an automation for a request, waits for one, and settles afterwards.

Asks that arrive together are planned together (`selection.plan`) and reserved with one update a key
(`reservations.reserve`), so that a busy worker asks the database once for many requests, and a lone request
waits for nothing.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import structlog

from infra.group_commit import GroupCommit
from infra.mongo import Mongo, PyMongoError
from workers.keys.key import Key
from workers.keys.limits import chargeable
from workers.keys.reservations import Settlement, load_keys, renew_holds, reserve, settle
from workers.keys.selection import Ask, Later, Refusal, plan

log = structlog.get_logger()

#: An automation's keys are read again after so long, in case an event was missed, in seconds.
RELOAD_S = 30.0
#: Nobody is refused by a view of the keys that is older, in seconds.
FRESH_S = 0.1
#: Seconds between attempts to write settlements while MongoDB is away.
SETTLE_RETRY_S = 1.0
#: How often holds are renewed; well under `reservations.HOLD_S`.
RENEW_S = 30.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """A key, reserved for one call; give it back with `KeyPool.settle`."""

    key: Key
    second: int
    tokens: int


Reserved: TypeAlias = Reservation | Refusal | Later


@dataclass(slots=True)
class _Waiter:
    ask: Ask
    answer: "asyncio.Future[Reserved]"


@dataclass(slots=True)
class _AutomationKeys:
    """One automation's keys as last seen, and who waits for one, in order."""

    keys: dict[str, Key] = field(default_factory=dict)
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
        self._worker_id = worker_id
        self._clock = clock
        self._server_offset = time.time() - clock()
        self._automations: dict[str, _AutomationKeys] = {}
        self._settlements: dict[str, GroupCommit[Settlement, None]] = {}
        self._renewal: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to renew this worker's holds."""
        self._renewal = asyncio.create_task(self._renew())

    async def close(self) -> None:
        """Settle what is to be settled, and stop."""
        tasks = [self._renewal, *(keys.server for keys in self._automations.values())]
        for task in filter(None, tasks):
            task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)
        await asyncio.gather(*(commit.drain() for commit in self._settlements.values()))

    def now(self) -> float:
        """The time on MongoDB's clock, in seconds since the epoch."""
        return self._clock() + self._server_offset

    async def reserve(self, automation_id: str, ask: Ask) -> Reserved:
        """Reserve the best key for a call, waiting for room until the deadline.

        Returns:
            The reservation; or why no key will serve before the deadline; or when one may, if that is
            beyond the ask's patience.

        Raises:
            PyMongoError: MongoDB is away.
        """
        keys = self._automations.setdefault(automation_id, _AutomationKeys())
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
        key = reservation.key
        commit = self._settlements.get(key.id)
        if commit is None:
            commit = self._settlements[key.id] = GroupCommit(partial(self._write_settlements, key))
        return commit.submit(settlement)

    def release(self, reservation: Reservation) -> None:
        """Give back a reservation whose call was not made; it still counts as one of its minute."""
        self.settle(reservation, Settlement(reservation.second, reservation.tokens, used=0))

    def invalidate(self, automation_id: str) -> None:
        """Read the automation's keys again before the next reservation."""
        if keys := self._automations.get(automation_id):
            keys.loaded_at = float("-inf")
            keys.changed.set()

    def _abandon(self, keys: _AutomationKeys, waiter: _Waiter) -> None:
        if waiter in keys.waiting:
            keys.waiting.remove(waiter)
        if waiter.answer.done() and not waiter.answer.cancelled() and waiter.answer.exception() is None:
            answer = waiter.answer.result()
            if isinstance(answer, Reservation):
                self.release(answer)
        keys.changed.set()

    async def _write_settlements(self, key: Key, batch: Sequence[Settlement]) -> Sequence[None]:
        while True:
            try:
                settled = await settle(self._mongo, key.id, self._worker_id, batch)
                break
            except PyMongoError as error:
                # What is not settled stays counted: too careful, never too free; so it is tried again.
                log.warning("settlement_delayed", key_id=key.id, calls=len(batch), error=type(error).__name__)
                await asyncio.sleep(SETTLE_RETRY_S)
        keys = self._automations.get(key.automation_id)
        if keys is not None and settled is not None and key.id in keys.keys:
            keys.keys[key.id] = settled
            keys.changed.set()
        return [None] * len(batch)

    async def _serve(self, automation_id: str, keys: _AutomationKeys) -> None:
        try:
            while keys.waiting:
                keys.changed.clear()
                await self._serve_once(automation_id, keys)
        except Exception as error:  # noqa: BLE001  # whoever waits gets it
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
        keys.waiting = [waiter for waiter in keys.waiting if not waiter.answer.done()]
        batch = list(keys.waiting)
        planned = plan([waiter.ask for waiter in batch], keys.keys.values(), self.now())
        if planned.refuse and self._clock() - keys.loaded_at > FRESH_S:
            # A refusal is final: an operator may just have added or enabled a key.
            await self._load(automation_id, keys)
            planned = plan([waiter.ask for waiter in batch], keys.keys.values(), self.now())
        for index, answer in (planned.refuse | planned.put_off).items():
            if not batch[index].answer.done():
                batch[index].answer.set_result(answer)
        if planned.reserve:
            await asyncio.gather(
                *(
                    self._reserve_on(keys, key_id, [batch[i] for i in indices])
                    for key_id, indices in planned.reserve.items()
                )
            )
        elif not planned.refuse and not planned.put_off and planned.look_again_at is not None:
            await self._wait(keys, planned.look_again_at - self.now())

    async def _load(self, automation_id: str, keys: _AutomationKeys) -> None:
        keys.loaded_at = self._clock()
        loaded, server_time = await load_keys(self._mongo, automation_id)
        if server_time is not None:
            self._server_offset = server_time - self._clock()
        keys.keys = {key.id: key for key in loaded}

    async def _reserve_on(self, keys: _AutomationKeys, key_id: str, waiters: list[_Waiter]) -> None:
        key = keys.keys[key_id]
        token_counts = [chargeable(key, waiter.ask.tokens) for waiter in waiters]
        reserved = await reserve(self._mongo, key_id, self._worker_id, token_counts)
        if reserved is None:
            keys.loaded_at = float("-inf")
            return
        granted, key, server_time = reserved
        self._server_offset = server_time - self._clock()
        keys.keys[key_id] = key
        for waiter, tokens in zip(waiters[:granted], token_counts, strict=False):
            reservation = Reservation(key, key.window[-1].second, tokens)
            if waiter.answer.done():
                self.release(reservation)
            else:
                waiter.answer.set_result(reservation)

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
                await renew_holds(self._mongo, self._worker_id)
            except PyMongoError as error:
                log.warning("holds_not_renewed", error=type(error).__name__)

"""The settler: gives reserved calls back and tells what they used, many keys together."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from infra.group_commit import GroupCommit
from infra.mongo import Mongo, PyMongoError
from workers.keys.holds import Holds
from workers.keys.key import Key
from workers.keys.limits import CIRCUIT_FAILURES
from workers.keys.settlements import Settlement, settle, settle_plain, settled_view
from workers.keys.slots import give_slots

log = structlog.get_logger()

#: Seconds between attempts to write settlements while MongoDB is away.
RETRY_S = 1.0

#: A key, and the hold under which calls were reserved on it.
Place: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Settled:
    """A settlement, and whose calls it is of.

    Attributes:
        key: as it was when they were reserved.
        hold: under which they were.
        settlement: what became of them.
        slot: whether they hold one of the automation's own slots too.
    """

    key: Key
    hold: str
    settlement: Settlement
    slot: bool = False


class Settler:
    """Writes settlements, however long MongoDB is away.

    What is plain is written for all keys with one command, and views of the keys follow by calculation; what
    changes how a key is used is written by itself, and the key read with it.

    Args:
        mongo: where the keys are.
        holds: where the calls are counted.
        view: how a key was seen last, by a view of it; None where it is gone.
        learn: takes newer views.
        now: the time on MongoDB's clock, in seconds since the epoch.
    """

    def __init__(
        self,
        mongo: Mongo,
        holds: Holds,
        *,
        view: Callable[[Key], Key | None],
        learn: Callable[[Key], None],
        now: Callable[[], float],
    ) -> None:
        self._mongo = mongo
        self._holds = holds
        self._view = view
        self._learn = learn
        self._now = now
        self._commit: GroupCommit[Settled, None] = GroupCommit(self._write)

    def submit(self, settled: Settled) -> "asyncio.Future[None]":
        """Have a settlement written; done when it is."""
        return self._commit.submit(settled)

    async def drain(self) -> None:
        """Wait until all is written."""
        await self._commit.drain()

    async def give_slots(self, automation_id: str, hold: str, count: int) -> None:
        """Give back slots of an automation's own cap."""
        while True:
            try:
                return await give_slots(self._mongo, automation_id, hold, count)
            except PyMongoError as error:
                log.warning("slots_delayed", automation_id=automation_id, error=type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _write(self, batch: Sequence[Settled]) -> Sequence[None]:
        keys: dict[Place, Key] = {}
        groups: dict[Place, list[Settlement]] = {}
        slots: dict[Place, int] = {}
        for settled in batch:
            place = settled.key.id, settled.hold
            keys[place] = settled.key
            groups.setdefault(place, []).append(settled.settlement)
            if settled.slot:
                of_automation = settled.key.automation_id, settled.hold
                slots[of_automation] = slots.get(of_automation, 0) + 1
        plain = {place: group for place, group in groups.items() if self._is_plain(keys[place], group)}
        await asyncio.gather(
            self._write_plain(keys, plain),
            *(self._write_one(keys[place], place, groups[place]) for place in groups.keys() - plain),
            *(self.give_slots(*of_automation, count) for of_automation, count in slots.items()),
        )
        return [None] * len(batch)

    def _is_plain(self, key: Key, group: Sequence[Settlement]) -> bool:
        view = self._view(key) or key
        return view.failures_in_a_row < CIRCUIT_FAILURES and all(settlement.is_plain for settlement in group)

    async def _write_plain(
        self, keys: Mapping[Place, Key], groups: Mapping[Place, Sequence[Settlement]]
    ) -> None:
        refused: set[Place] = set()
        while groups:
            try:
                refused = await settle_plain(self._mongo, groups)
                break
            except PyMongoError as error:
                await self._delay(error, sum(map(len, groups.values())))
        for place in groups.keys() - refused:
            view = self._view(keys[place])
            self._end(place, groups[place], view and settled_view(view, groups[place], self._now()))
        await asyncio.gather(*(self._write_one(keys[place], place, groups[place]) for place in refused))

    async def _write_one(self, key: Key, place: Place, group: Sequence[Settlement]) -> None:
        while True:
            try:
                written = await settle(self._mongo, *place, group)
                break
            except PyMongoError as error:
                await self._delay(error, len(group), key_id=key.id)
        self._end(place, group, written)

    async def _delay(self, error: PyMongoError, settlements: int, **about: str) -> None:
        # What is not settled stays counted: too careful, never too free; so it is tried again.
        log.warning("settlement_delayed", settlements=settlements, error=type(error).__name__, **about)
        await asyncio.sleep(RETRY_S)

    def _end(self, place: Place, group: Sequence[Settlement], view: Key | None) -> None:
        self._holds.give(place[1], sum(settlement.calls for settlement in group))
        if view is not None:
            self._learn(view)

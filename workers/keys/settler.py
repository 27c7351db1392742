"""The settler: gives reserved calls back and tells what they used, many keys together."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import structlog

from contracts.retrying import retrying
from infra.background_tasks import BackgroundTasks
from infra.group_commit import GroupCommit
from infra.isolated_writes import write_isolated
from infra.mongo import Mongo
from infra.mongo_errors import may_pass
from workers.keys.holds import Holds
from workers.keys.key import Key
from workers.keys.limits import CIRCUIT_FAILURES, UNLIMITED, in_flight_limit
from workers.keys.settlements import Settlement, settle, settle_plain, settled_view
from workers.keys.slots import give_slots

log = structlog.get_logger()

#: Seconds between attempts to write settlements while MongoDB is away.
RETRY_S = 1.0

#: How long a settlement that nobody waits for is put off: so it does not compete with the writes that a lone
#: request is waited for, in seconds.
PATIENCE_S = 0.005

#: A key, and the hold under which calls were reserved on it.
Place: TypeAlias = tuple[str, str]


def _future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True)
class Settled:
    """A settlement, and whose calls it is of.

    Attributes:
        key: as it was when they were reserved.
        hold: under which they were.
        settlement: what became of them.
        slot: whether they hold one of the automation's own slots too.
        written: done when it is in the database.
    """

    key: Key
    hold: str
    settlement: Settlement
    slot: bool = False
    written: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(slots=True)
class _Group:
    """Settlements of one key and hold, which are written together."""

    key: Key
    hold: str
    settled: list[Settled] = field(default_factory=list)

    @property
    def settlements(self) -> list[Settlement]:
        return [one.settlement for one in self.settled]


class Settler:
    """Writes settlements, however long MongoDB is away.

    What is plain is written for all keys with one command, and views of the keys follow by calculation; what
    changes how a key is used is written by itself, and the key read with it. A key whose write fails is tried
    again by itself, and keeps none from theirs. A settlement that MongoDB refuses for good gives back what
    was reserved, as if nobody knew what was used.

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
        self._commit: GroupCommit[Settled, None] = GroupCommit(self._write, patience_s=PATIENCE_S)
        self._tasks = BackgroundTasks("settler")

    def submit(self, settled: Settled) -> "asyncio.Future[None]":
        """Have a settlement written, soon where nobody waits for it; done when it is."""
        writing = self._commit.submit(settled, hurry=self._is_waited_for(settled))
        writing.add_done_callback(partial(_fail, [settled]))
        return settled.written

    async def drain(self) -> None:
        """Wait until all is written."""
        await self._commit.drain()
        await self._tasks.drain()

    async def give_slots(self, automation_id: str, hold: str, count: int) -> None:
        """Give back slots of an automation's own cap."""

        def note(error: Exception) -> None:
            log.warning("slots_delayed", automation_id=automation_id, error=type(error).__name__)

        give = partial(give_slots, self._mongo, automation_id, hold, count)
        await retrying(give, passes=may_pass, pause_s=RETRY_S, longest_pause_s=RETRY_S, note=note)

    async def _write(self, batch: Sequence[Settled]) -> Sequence[None]:
        groups: dict[Place, _Group] = {}
        for settled in batch:
            group = groups.setdefault((settled.key.id, settled.hold), _Group(settled.key, settled.hold))
            group.settled.append(settled)
        plain = {place: group for place, group in groups.items() if self._is_plain(group)}
        alone = [group for place, group in groups.items() if place not in plain]
        if plain:
            try:
                batches = {place: group.settlements for place, group in plain.items()}
                refused = await settle_plain(self._mongo, batches)
            except Exception:  # noqa: BLE001  # each is tried again by itself
                refused = set(plain)
            for place, group in plain.items():
                if place in refused:
                    alone.append(group)
                else:
                    view = self._view(group.key)
                    self._end(group, view and settled_view(view, group.settlements, self._now()))
        if alone:
            await asyncio.wait([self._start_alone(group) for group in alone], timeout=RETRY_S)
        return [None] * len(batch)

    def _is_waited_for(self, settled: Settled) -> bool:
        """Whether it says what others must know, or gives back one of few calls in flight."""
        view = self._view(settled.key) or settled.key
        is_scarce = settled.slot or in_flight_limit(view, self._now()) < UNLIMITED
        return is_scarce or not settled.settlement.is_plain

    def _is_plain(self, group: _Group) -> bool:
        view = self._view(group.key) or group.key
        return view.failures_in_a_row < CIRCUIT_FAILURES and not any(
            settled.slot or not settled.settlement.is_plain for settled in group.settled
        )

    def _start_alone(self, group: _Group) -> "asyncio.Task[None]":
        task = self._tasks.start("write a key", self._write_alone(group))
        task.add_done_callback(partial(_fail, group.settled))
        return task

    async def _write_alone(self, group: _Group) -> None:
        """Write what is of one key and hold, however long MongoDB is away."""
        key = group.key
        views = await write_isolated(partial(self._settle, key.id, group.hold), group.settlements)
        for index, view in enumerate(views):
            if isinstance(view, Exception):
                views[index] = await self._settle_bare(group, group.settlements[index], view)
        if slots := sum(settled.slot for settled in group.settled):
            await self.give_slots(key.automation_id, group.hold, slots)
        last = views[-1]
        self._end(group, None if isinstance(last, Exception) else last)

    async def _settle(
        self, key_id: str, hold: str, settlements: Sequence[Settlement]
    ) -> Sequence[Key | None]:
        def note(error: Exception) -> None:
            # What is not settled stays counted: too careful, never too free; so it is tried again.
            name = type(error).__name__
            log.warning("settlement_delayed", key_id=key_id, calls=len(settlements), error=name)

        write = partial(settle, self._mongo, key_id, hold, settlements)
        view = await retrying(write, passes=may_pass, pause_s=RETRY_S, longest_pause_s=RETRY_S, note=note)
        return [view] * len(settlements)

    async def _settle_bare(self, group: _Group, refused: Settlement, error: Exception) -> Key | None:
        """Give back what was reserved for a call whose settlement MongoDB refuses for good.

        Raises:
            Exception: the error may pass: this process is stopping.
        """
        if may_pass(error):
            raise error
        log.error("settlement_refused", key_id=group.key.id, error=type(error).__name__)
        settling = partial(self._settle, group.key.id, group.hold)
        (view,) = await write_isolated(settling, [refused.bare])
        if isinstance(view, Exception):
            # What it holds lapses with the name.
            self._holds.anew()
            return None
        return view

    def _end(self, group: _Group, view: Key | None) -> None:
        self._holds.give(group.hold, sum(settlement.calls for settlement in group.settlements))
        if view is not None:
            self._learn(view)
        for settled in group.settled:
            if not settled.written.done():
                settled.written.set_result(None)


def _fail(unwritten: Sequence[Settled], writing: "asyncio.Future[None]") -> None:
    """Tell who waits of a write that ended with a defect."""
    if not writing.cancelled() and (error := writing.exception()) is not None:
        for settled in unwritten:
            if not settled.written.done():
                settled.written.set_exception(error)

"""Lanes: each automation's queue of requests, consumed as long as there is the automation.

How much a worker takes from a lane at a time follows what its keys have room for: twice as much while all of
it is in use, nothing for a while when there is no room, and little at a time after that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog

from contracts.queue_consumer import QueueConsumer
from contracts.retrying import retrying
from infra.automation_documents import AutomationDocuments
from infra.background_tasks import BackgroundTasks
from infra.broker import lane as queue_of
from infra.consumed_deliveries import ConsumedDelivery, deliveries
from infra.consuming import Consuming
from infra.deliveries import DeliveriesInHand, Delivery, reject_if_it_fails, unless_closed
from infra.living_processes import living_workers
from infra.mongo import Mongo, PyMongoError
from infra.settings import Settings
from workers.generation.automation import Automation
from workers.generation.work import LaneFullError
from workers.keys.pool import KeyPool

log = structlog.get_logger()

#: The list of automations is read again after so long, in case an event was missed, in seconds.
RELOAD_S = 25.0
#: The first pause before it is read again where MongoDB is away, and the longest, in seconds.
RETRY_S = 2.0
LONGEST_RETRY_S = 10.0
#: A paused lane is looked at again after so long, in case an event was missed, in seconds.
LONGEST_PAUSE_S = 25.0
#: Requests that a worker takes at a time from a lane at first, and after a pause. Few, since what waits in
#: workers waits in no order among them.
FIRST_PREFETCH = 4
#: A lane is widened when its calls take so long, in seconds: more of them at a time are answered sooner.
LONG_CALL_S = 0.25
#: The longest time between two looks whether a full lane may be widened, in seconds.
LONGEST_LOOK_S = 2.0
#: Room to spare: so many times what a lane takes at a time.
AMPLE = 16

Handle = Callable[[Delivery, Automation], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Lane:
    """One automation's queue of requests."""

    automation: Automation
    prefetch: int
    consumer: QueueConsumer
    #: Deliveries that are being done, and all that ever came.
    in_hand: int = 0
    taken: int = 0
    widening: asyncio.Task[None] | None = None
    resumption: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_paused(self) -> bool:
        """Whether nothing is to be taken from it for now."""
        return self.automation.paused or self.resumption is not None


class Lanes:
    """The lanes that this worker consumes, and the deliveries that it is busy with.

    Args:
        settings: which automations are served, and how much is taken at a time.
        mongo: where automations are.
        consuming: consumes the queues.
        handle: does a delivery and acknowledges it.
        pool: knows what the lanes' keys have room for.
    """

    def __init__(
        self, settings: Settings, mongo: Mongo, consuming: Consuming, handle: Handle, pool: KeyPool
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._mongo = mongo
        self._consuming = consuming
        self._channels = consuming.channels()
        self._handle = handle
        self._documents = AutomationDocuments(Automation)
        self._lanes: dict[str, _Lane] = {}
        self._busy = DeliveriesInHand("lanes")
        self._tasks = BackgroundTasks("lanes")
        self._workers = 1
        self._reload = asyncio.Event()

    async def start(self) -> int:
        """Consume every lane, and keep up with automations from now on.

        Returns:
            How many lanes there are; each was tried once.
        """
        await self._refresh()
        self._tasks.keep("reload", self._keep_up)
        for lane in list(self._lanes.values()):
            await lane.consumer.tried.wait()
        return len(self._lanes)

    @property
    def in_hand(self) -> int:
        """How many deliveries this worker is busy with."""
        return len(self._busy)

    def reload(self, automation_id: str) -> None:
        """Look at once which automations there are, and whether this one's lane still has to be paused."""
        self._reload.set()
        if lane := self._lanes.get(automation_id):
            lane.wake.set()

    async def stop(self, grace_s: float) -> None:
        """Take no more deliveries, and give those under way so long to finish; the rest are handed back.

        Args:
            grace_s: in seconds.
        """
        await self._tasks.close()
        await asyncio.gather(*(self._close(automation_id) for automation_id in list(self._lanes)))
        if self._busy:
            log.info("finishing", in_flight=len(self._busy), grace_s=grace_s)
            await self._busy.finish(grace_s)

    async def _keep_up(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RELOAD_S):
                    await self._reload.wait()
            self._reload.clear()
            await retrying(
                self._refresh,
                passes=(PyMongoError,),
                pause_s=RETRY_S,
                longest_pause_s=LONGEST_RETRY_S,
                note=lambda error: log.warning("lanes_not_reloaded", error=type(error).__name__),
            )

    async def _refresh(self) -> None:
        self._workers = max(1, await living_workers(self._mongo))
        wanted = await self._wanted()
        for automation_id in [known for known in self._lanes if known not in wanted]:
            await self._close(automation_id)
        for automation_id, automation in wanted.items():
            lane = self._lanes.get(automation_id)
            if lane is None:
                if automation is not None:
                    self._open(automation)
                continue
            # Where its document can't be read, it goes on with what was known.
            lane.automation = automation or lane.automation
            if lane.is_paused:
                if not lane.consumer.is_paused:
                    await self._leave(lane)
            elif lane.consumer.is_paused:
                lane.consumer.use(lane.prefetch)

    def _open(self, automation: Automation) -> None:
        consumer = self._consuming.consume(
            "requests",
            queue_of(automation.id, self._settings),
            deliveries(partial(self._on_delivery, automation.id)),
            prefetch=None if automation.paused else self._first_prefetch,
            channels=self._channels,
        )
        self._lanes[automation.id] = _Lane(automation, self._first_prefetch, consumer)
        log.info("lane_opened", automation_id=automation.id)

    @property
    def _first_prefetch(self) -> int:
        return min(FIRST_PREFETCH, self._settings.lane_prefetch)

    async def _widen(self, lane: _Lane) -> None:
        """Double a lane's prefetch while all of it is in use and the worker has room."""
        wait_s = LONG_CALL_S
        while True:
            taken = lane.taken
            await asyncio.sleep(wait_s)
            if lane.in_hand < lane.prefetch or not lane.consumer.is_consuming or lane.is_paused:
                return
            wanted = min(lane.prefetch * 2, self._settings.lane_prefetch)
            if self._may_widen(lane, wanted, has_waited=lane.taken == taken):
                break
            wait_s = min(wait_s * 2, LONGEST_LOOK_S)
        lane.prefetch = wanted
        lane.consumer.use(wanted)

    def _may_widen(self, lane: _Lane, wanted: int, *, has_waited: bool) -> bool:
        """Whether the lane's calls are long, or its keys have room to spare; and the worker has room."""
        share = self._pool.calls_that_fit(lane.automation.id) // self._workers
        if lane.in_hand + share < wanted or len(self._busy) + wanted > self._settings.max_in_flight:
            return False
        is_slow = has_waited or self._pool.latency_s(lane.automation.id) >= LONG_CALL_S
        return is_slow or share >= AMPLE * wanted

    async def _pause(self, lane: _Lane, wait_s: float) -> None:
        """Take nothing from a lane without room for so long, and then little at a time."""
        if not lane.is_paused:
            lane.prefetch = self._first_prefetch
            lane.wake.clear()
            lane.resumption = self._tasks.start("resumption", self._resume(lane, wait_s))
            log.info("lane_paused", automation_id=lane.automation.id, wait_s=round(wait_s, 1))
        await lane.consumer.pause()

    async def _resume(self, lane: _Lane, wait_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(min(wait_s, LONGEST_PAUSE_S)):
                await lane.wake.wait()
        lane.resumption = None
        log.info("lane_resumed", automation_id=lane.automation.id, prefetch=lane.prefetch)
        self._reload.set()

    async def _wanted(self) -> dict[str, Automation | None]:
        query = {"_id": {"$in": sorted(self._settings.lanes)}} if self._settings.lanes else {}
        found = self._mongo.automations.find(query, {"held": 0})
        return self._documents.read([document async for document in found])

    async def _leave(self, lane: _Lane) -> None:
        """Take nothing from the lane of a paused automation; what is in hand goes on."""
        lane.prefetch = self._first_prefetch
        await lane.consumer.pause()
        log.info("lane_left", automation_id=lane.automation.id, in_hand=lane.in_hand)

    async def _close(self, automation_id: str) -> None:
        lane = self._lanes[automation_id]
        for task in (lane.widening, lane.resumption):
            if task is not None:
                task.cancel()
        await self._consuming.end(lane.consumer)
        del self._lanes[automation_id]
        log.info("lane_closed", automation_id=automation_id)

    async def _on_delivery(self, automation_id: str, message: ConsumedDelivery) -> None:
        lane = self._lanes.get(automation_id)
        if lane is None:
            # Delivered while the lane was being closed.
            await unless_closed(message.nack(requeue=True))
            return
        lane.in_hand += 1
        lane.taken += 1
        self._busy.do(self._handle_safely(message, lane))
        is_full = lane.prefetch <= lane.in_hand and lane.prefetch < self._settings.lane_prefetch
        if is_full and (lane.widening is None or lane.widening.done()):
            lane.widening = self._tasks.start("widening", self._widen(lane))

    async def _handle_safely(self, message: Delivery, lane: _Lane) -> None:
        try:
            await reject_if_it_fails(message, lane.automation.id, self._do(message, lane))
        finally:
            lane.in_hand -= 1

    async def _do(self, message: Delivery, lane: _Lane) -> None:
        try:
            await self._handle(message, lane.automation)
        except LaneFullError as full:
            await self._pause(lane, full.wait_s)
            await unless_closed(message.nack(requeue=True))

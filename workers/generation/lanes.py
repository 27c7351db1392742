"""Lanes: one consumer on each automation's queue, coming and going as automations do.

Lanes with the same prefetch share a channel, since RabbitMQ counts `basic.qos` for each consumer by itself: a
thousand lanes cost a thousand consumers, not a thousand channels.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog
from aio_pika.abc import AbstractRobustChannel, AbstractRobustConnection
from aiormq import Channel
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from contracts import names
from infra.broker import declare_lane
from infra.consumed_deliveries import consume
from infra.deliveries import Delivery, finish, unless_closed
from infra.living_processes import living_workers
from infra.mongo import Mongo
from infra.outgoing_frames import OutgoingFrames
from infra.settings import Settings
from infra.trace_headers import trace_ids
from infra.underlay_channel import underlay
from workers.generation.automation import Automation
from workers.generation.work import LaneFullError
from workers.keys.pool import KeyPool

log = structlog.get_logger()

#: The list of automations is read again after so long, in case an event was missed, in seconds.
RELOAD_S = 25.0
#: Seconds until the next try where a lane could not be opened.
RETRY_S = 2.0
#: How long RabbitMQ may take to start or stop a consumer; while it is away, it is asked later, in seconds.
CHANGE_TIMEOUT_S = 5.0
#: A paused lane is looked at again after so long, in case an event was missed, in seconds.
LONGEST_PAUSE_S = 25.0
#: Requests that a worker takes at a time from a lane at first, and after a pause. Few, since what waits in
#: workers waits in no order among them.
FIRST_PREFETCH = 4
#: A lane is widened when its calls take so long, in seconds: more of them at a time are answered sooner.
LONG_CALL_S = 0.25
#: Room to spare: so many times what a lane takes at a time.
AMPLE = 16
CHANNEL_GONE = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)

Handle = Callable[[Delivery, Automation], Awaitable[None]]


@dataclass(slots=True)
class _Lane:
    """One automation's queue; without a consumer it is paused, or its channel is gone."""

    automation: Automation
    prefetch: int
    channel: Channel | None = None
    consumer_tag: str | None = None
    #: Deliveries that are being done, and all that ever came.
    in_hand: int = 0
    taken: int = 0
    widening: asyncio.Task[None] | None = None
    resumption: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Lanes:
    """The lanes that this worker consumes, and the deliveries that it is busy with."""

    def __init__(
        self,
        settings: Settings,
        mongo: Mongo,
        connection: AbstractRobustConnection,
        handle: Handle,
        pool: KeyPool,
    ) -> None:
        """Take where automations and queues are, what does a delivery, and what knows the lanes' keys."""
        self._pool = pool
        self._settings = settings
        self._mongo = mongo
        self._connection = connection
        self._handle = handle
        self._lanes: dict[str, _Lane] = {}
        self._channels: dict[int, AbstractRobustChannel] = {}
        self._busy: set[asyncio.Task[None]] = set()
        self._workers = 1
        self._reload = asyncio.Event()
        self._reloader: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Open every lane, and keep up with automations from now on.

        Returns:
            How many lanes are open.
        """
        await self._refresh()
        self._reloader = asyncio.create_task(self._keep_up())
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
        if self._reloader is not None:
            self._reloader.cancel()
            await asyncio.gather(self._reloader, return_exceptions=True)
        await asyncio.gather(*(self._close(automation_id) for automation_id in list(self._lanes)))
        if self._busy:
            log.info("finishing", in_flight=len(self._busy), grace_s=grace_s)
            await finish(self._busy, grace_s)
        await self._flush()

    async def _flush(self) -> None:
        """Have all acknowledgements written; while RabbitMQ is away, it has lost the deliveries with them."""
        with suppress(*CHANNEL_GONE):
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                for channel in self._channels.values():
                    await OutgoingFrames.of(await underlay(channel)).flush()

    async def _keep_up(self) -> None:
        while True:
            wait_s = RELOAD_S
            try:
                await self._refresh()
            except Exception as error:  # noqa: BLE001  # MongoDB or the broker is away: again soon
                log.warning("lanes_not_reloaded", error=type(error).__name__)
                wait_s = RETRY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._reload.wait()
            self._reload.clear()

    async def _refresh(self) -> None:
        self._workers = max(1, await living_workers(self._mongo))
        wanted = await self._wanted()
        for automation_id in [known for known in self._lanes if known not in wanted]:
            await self._close(automation_id)
        for automation in wanted.values():
            lane = self._lanes.get(automation.id)
            if lane is None:
                await declare_lane(self._connection, automation.id, self._settings)
                lane = self._lanes[automation.id] = _Lane(automation, self._first_prefetch)
                log.info("lane_opened", automation_id=automation.id)
            lane.automation = automation
            async with lane.changing:
                if automation.paused:
                    await self._leave(lane)
                elif lane.resumption is None and lane.consumer_tag is None:
                    await self._consume(lane)

    @property
    def _first_prefetch(self) -> int:
        return min(FIRST_PREFETCH, self._settings.lane_prefetch)

    async def _widen(self, lane: _Lane) -> None:
        """Take twice as much at a time from a lane, if it may be, as long as it takes as much as it can."""
        wait_s = LONG_CALL_S
        while True:
            taken = lane.taken
            await asyncio.sleep(wait_s)
            if lane.in_hand < lane.prefetch or lane.consumer_tag is None:
                return
            wanted = min(lane.prefetch * 2, self._settings.lane_prefetch)
            if self._may_widen(lane, wanted, has_waited=lane.taken == taken):
                break
            wait_s = min(wait_s * 2, RETRY_S)
        async with lane.changing:
            if lane.consumer_tag is None or not await self._cancel(lane):
                return
            lane.prefetch = wanted
            try:
                await self._consume(lane)
            except CHANNEL_GONE:
                self._reload.set()

    def _may_widen(self, lane: _Lane, wanted: int, *, has_waited: bool) -> bool:
        """Whether the lane's calls are long, or its keys have room to spare; and the worker has room."""
        share = self._pool.calls_that_fit(lane.automation.id) // self._workers
        if lane.in_hand + share < wanted or len(self._busy) + wanted > self._settings.max_in_flight:
            return False
        is_slow = has_waited or self._pool.latency_s(lane.automation.id) >= LONG_CALL_S
        return is_slow or share >= AMPLE * wanted

    async def _pause(self, lane: _Lane, wait_s: float) -> None:
        """Take nothing from a lane without room for so long, and then little at a time."""
        async with lane.changing:
            if lane.resumption is not None or lane.consumer_tag is None or not await self._cancel(lane):
                return
            lane.prefetch = self._first_prefetch
            lane.wake.clear()
            lane.resumption = asyncio.create_task(self._resume(lane, wait_s))
            log.info("lane_paused", automation_id=lane.automation.id, wait_s=round(wait_s, 1))

    async def _resume(self, lane: _Lane, wait_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(min(wait_s, LONGEST_PAUSE_S)):
                await lane.wake.wait()
        lane.resumption = None
        log.info("lane_resumed", automation_id=lane.automation.id, prefetch=lane.prefetch)
        self._reload.set()

    async def _wanted(self) -> dict[str, Automation]:
        query = {"_id": {"$in": sorted(self._settings.lanes)}} if self._settings.lanes else {}
        return {
            found["_id"]: Automation.from_document(found)
            async for found in self._mongo.automations.find(query, {"held": 0})
        }

    async def _leave(self, lane: _Lane) -> None:
        """Take nothing from the lane of a paused automation; what is in hand goes on."""
        if lane.consumer_tag is not None and await self._cancel(lane):
            lane.prefetch = self._first_prefetch
            log.info("lane_left", automation_id=lane.automation.id, in_hand=lane.in_hand)

    async def _consume(self, lane: _Lane) -> None:
        async with asyncio.timeout(CHANGE_TIMEOUT_S):
            robust = await self._channel(lane.prefetch)
            # The consumer goes with the channel that there is now: `_on_reopened` has it made again.
            channel = await underlay(robust)
            take = partial(self._on_delivery, lane.automation.id)
            lane.consumer_tag = await consume(channel, names.lane_queue(lane.automation.id), take)
            lane.channel = channel

    async def _cancel(self, lane: _Lane) -> bool:
        """Stop a lane's consumer.

        Returns:
            False where RabbitMQ has not said so in time: then it may go on, and the lane is as it was.
        """
        channel, tag = lane.channel, lane.consumer_tag
        if channel is None or tag is None:
            return True
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                await channel.basic_cancel(tag)
        except TimeoutError:
            # Others' changes of the channel came first; or it was closed for it, and `_on_reopened` comes.
            log.warning("consumer_not_cancelled", automation_id=lane.automation.id)
            self._reload.set()
            return False
        except CHANNEL_GONE:
            log.info("consumer_gone", automation_id=lane.automation.id)
        lane.channel = lane.consumer_tag = None
        return True

    async def _close(self, automation_id: str) -> None:
        lane = self._lanes[automation_id]
        if lane.resumption is not None:
            lane.resumption.cancel()
        async with lane.changing:
            if not await self._cancel(lane):
                return
            del self._lanes[automation_id]
        if lane.widening is not None:
            lane.widening.cancel()
            await asyncio.gather(lane.widening, return_exceptions=True)
        log.info("lane_closed", automation_id=automation_id)

    async def _channel(self, prefetch: int) -> AbstractRobustChannel:
        channel = self._channels.get(prefetch)
        if channel is None:
            channel = await self._connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=prefetch)
            channel.reopen_callbacks.add(partial(self._on_reopened, prefetch))
            self._channels[prefetch] = channel
        return channel

    def _on_reopened(self, prefetch: int, *_: object) -> None:
        """The channel is new, and its consumers are gone: have them made again."""
        for lane in self._lanes.values():
            if lane.prefetch == prefetch:
                lane.channel = lane.consumer_tag = None
        self._reload.set()

    async def _on_delivery(self, automation_id: str, message: Delivery) -> None:
        lane = self._lanes.get(automation_id)
        if lane is None:
            # Delivered while the lane was being closed.
            await unless_closed(message.nack(requeue=True))
            return
        lane.in_hand += 1
        lane.taken += 1
        task = asyncio.create_task(self._handle_safely(message, lane))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)
        is_full = lane.prefetch <= lane.in_hand and lane.prefetch < self._settings.lane_prefetch
        if is_full and (lane.widening is None or lane.widening.done()):
            lane.widening = asyncio.create_task(self._widen(lane))

    async def _handle_safely(self, message: Delivery, lane: _Lane) -> None:
        try:
            await self._handle(message, lane.automation)
        except LaneFullError as full:
            await self._pause(lane, full.wait_s)
            await unless_closed(message.nack(requeue=True))
        except Exception:
            log.exception(
                "delivery_failed",
                automation_id=lane.automation.id,
                request_id=message.message_id,
                **trace_ids(message.headers),
            )
            await unless_closed(message.reject(requeue=False))
        finally:
            lane.in_hand -= 1

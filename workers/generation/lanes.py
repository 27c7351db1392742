"""Lanes: one consumer on each automation's queue, coming and going as automations do.

Lanes with the same prefetch share a channel, since RabbitMQ counts `basic.qos` for each consumer by itself: a
thousand lanes cost a thousand consumers, not a thousand channels.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog
from aio_pika.abc import (
    AbstractIncomingMessage,
    AbstractQueue,
    AbstractRobustChannel,
    AbstractRobustConnection,
)
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from contracts import names
from infra.broker import declare_lane
from infra.mongo import Mongo, PyMongoError
from infra.settings import Settings
from workers.generation.request import Automation

log = structlog.get_logger()

#: The list of automations is read again after so long, in case an event was missed, in seconds.
RELOAD_S = 30.0
#: Seconds until the next try where a lane could not be opened.
RETRY_S = 2.0

Handle = Callable[[AbstractIncomingMessage, Automation], Awaitable[None]]


@dataclass(slots=True)
class _Lane:
    automation: Automation
    queue: AbstractQueue
    consumer_tag: str


class Lanes:
    """The lanes that this worker consumes, and the deliveries that it is busy with."""

    def __init__(
        self, settings: Settings, mongo: Mongo, connection: AbstractRobustConnection, handle: Handle
    ) -> None:
        """Take where automations and queues are, and what does a delivery."""
        self._settings = settings
        self._mongo = mongo
        self._connection = connection
        self._handle = handle
        self._lanes: dict[str, _Lane] = {}
        self._channels: dict[int, AbstractRobustChannel] = {}
        self._busy: set[asyncio.Task[None]] = set()
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

    def reload(self) -> None:
        """Look at once which automations there are."""
        self._reload.set()

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
            _, late = await asyncio.wait(self._busy, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                log.warning("handed_back", deliveries=len(late))
                await asyncio.wait(late)

    async def _keep_up(self) -> None:
        while True:
            wait_s = RELOAD_S
            try:
                await self._refresh()
            except (PyMongoError, AMQPError, ChannelInvalidStateError, ConnectionError) as error:
                log.warning("lanes_not_reloaded", error=type(error).__name__)
                wait_s = RETRY_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._reload.wait()
            except TimeoutError:
                pass
            self._reload.clear()

    async def _refresh(self) -> None:
        wanted = await self._wanted()
        for automation_id in [known for known in self._lanes if known not in wanted]:
            await self._close(automation_id)
        for automation in wanted.values():
            lane = self._lanes.get(automation.id)
            if lane is None:
                await self._open(automation)
            else:
                lane.automation = automation

    async def _wanted(self) -> dict[str, Automation]:
        query = {"_id": {"$in": sorted(self._settings.lanes)}} if self._settings.lanes else {}
        return {
            found["_id"]: Automation(
                found["_id"], found["enabled"], float(found["deadline_s"]), float(found["call_timeout_s"])
            )
            async for found in self._mongo.automations.find(query)
        }

    async def _open(self, automation: Automation) -> None:
        await declare_lane(self._connection, automation.id, self._settings)
        channel = await self._channel(self._settings.lane_prefetch)
        queue = await channel.get_queue(names.lane_queue(automation.id), ensure=False)
        tag = await queue.consume(partial(self._on_delivery, automation.id))
        self._lanes[automation.id] = _Lane(automation, queue, tag)
        log.info("lane_opened", automation_id=automation.id)

    async def _close(self, automation_id: str) -> None:
        lane = self._lanes.pop(automation_id)
        try:
            await lane.queue.cancel(lane.consumer_tag)
        except (AMQPError, ChannelInvalidStateError, ConnectionError) as error:
            log.info("lane_closed_by_broker", automation_id=automation_id, error=type(error).__name__)
        log.info("lane_closed", automation_id=automation_id)

    async def _channel(self, prefetch: int) -> AbstractRobustChannel:
        channel = self._channels.get(prefetch)
        if channel is None:
            channel = await self._connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=prefetch)
            self._channels[prefetch] = channel
        return channel

    async def _on_delivery(self, automation_id: str, message: AbstractIncomingMessage) -> None:
        lane = self._lanes.get(automation_id)
        if lane is None:
            # Delivered while the lane was being closed.
            await message.nack(requeue=True)
            return
        task = asyncio.create_task(self._handle_safely(message, lane.automation))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _handle_safely(self, message: AbstractIncomingMessage, automation: Automation) -> None:
        try:
            await self._handle(message, automation)
        except Exception:
            log.exception("delivery_failed", automation_id=automation.id, message_id=message.message_id)
            await message.reject(requeue=False)

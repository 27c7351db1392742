"""One consumer on each automation's queue of direct key requests, coming and going as automations do."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
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
from infra.broker import declare_lease_queue
from infra.deliveries import finish
from infra.mongo import Mongo
from infra.settings import Settings
from infra.trace_headers import trace_ids

log = structlog.get_logger()

#: The list of automations is read again after so long, in case an event was missed, in seconds.
RELOAD_S = 25.0
#: Seconds until the next try where a queue could not be consumed.
RETRY_S = 2.0
#: How long RabbitMQ may take to start or stop a consumer, in seconds.
CHANGE_TIMEOUT_S = 5.0
#: Requests of one automation that a worker has in hand at a time; few of them wait.
PREFETCH = 20
CHANNEL_GONE = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)

Handle = Callable[[AbstractIncomingMessage, str], Awaitable[None]]


class LeaseQueues:
    """The queues that this worker consumes, and the deliveries that it is busy with."""

    def __init__(
        self, settings: Settings, mongo: Mongo, connection: AbstractRobustConnection, handle: Handle
    ) -> None:
        """Take where automations and queues are, and what does a delivery."""
        self._settings = settings
        self._mongo = mongo
        self._connection = connection
        self._handle = handle
        self._channel: AbstractRobustChannel | None = None
        #: The consumers, by automation.
        self._consumers: dict[str, tuple[AbstractQueue, str]] = {}
        self._declared: set[str] = set()
        self._busy: set[asyncio.Task[None]] = set()
        self._reload = asyncio.Event()
        self._reloader: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Consume every queue, and keep up with automations from now on.

        Returns:
            How many queues are consumed.
        """
        await self._refresh()
        self._reloader = asyncio.create_task(self._keep_up())
        return len(self._consumers)

    def reload(self) -> None:
        """Look at once which automations there are."""
        self._reload.set()

    async def stop(self, grace_s: float) -> None:
        """Take no more deliveries, and give those under way so long to finish, in seconds."""
        if self._reloader is not None:
            self._reloader.cancel()
            await asyncio.gather(self._reloader, return_exceptions=True)
        await asyncio.gather(*(self._cancel(automation_id) for automation_id in list(self._consumers)))
        if self._busy:
            await finish(self._busy, grace_s)

    async def _keep_up(self) -> None:
        while True:
            wait_s = RELOAD_S
            try:
                await self._refresh()
            except Exception as error:  # noqa: BLE001  # MongoDB or the broker is away: again soon
                log.warning("queues_not_reloaded", error=type(error).__name__)
                wait_s = RETRY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._reload.wait()
            self._reload.clear()

    async def _refresh(self) -> None:
        lanes = self._settings.lanes
        query = {"_id": {"$in": sorted(lanes)}} if lanes else {}
        wanted = {found["_id"] async for found in self._mongo.automations.find(query, {"_id": 1})}
        for gone in self._consumers.keys() - wanted:
            await self._cancel(gone)
        for automation_id in sorted(wanted - self._declared):
            await declare_lease_queue(self._connection, automation_id, self._settings)
            self._declared.add(automation_id)
        for automation_id in sorted(wanted - self._consumers.keys()):
            await self._consume(automation_id)

    async def _consume(self, automation_id: str) -> None:
        async with asyncio.timeout(CHANGE_TIMEOUT_S):
            if self._channel is None:
                self._channel = await self._connection.channel(publisher_confirms=False)
                await self._channel.set_qos(prefetch_count=PREFETCH)
                self._channel.reopen_callbacks.add(self._on_reopened)
            # Not known to the channel, so that it does not restore it: `_on_reopened` has it made again.
            queue = await self._channel.get_queue(names.lease_queue(automation_id), ensure=False)
            tag = await queue.consume(partial(self._on_delivery, automation_id))
        self._consumers[automation_id] = queue, tag

    async def _cancel(self, automation_id: str) -> None:
        queue, tag = self._consumers.pop(automation_id)
        with suppress(*CHANNEL_GONE):  # and the consumer with it
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                await queue.cancel(tag)

    def _on_reopened(self, *_: object) -> None:
        """The channel is new, and its consumers are gone: have them made again."""
        self._consumers.clear()
        self._declared.clear()
        self._reload.set()

    async def _on_delivery(self, automation_id: str, message: AbstractIncomingMessage) -> None:
        task = asyncio.create_task(self._handle_safely(message, automation_id))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _handle_safely(self, message: AbstractIncomingMessage, automation_id: str) -> None:
        try:
            await self._handle(message, automation_id)
        except Exception:
            log.exception(
                "delivery_failed",
                automation_id=automation_id,
                request_id=message.message_id,
                **trace_ids(message.headers),
            )
            with suppress(*CHANNEL_GONE):
                await message.reject(requeue=False)

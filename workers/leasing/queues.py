"""Each automation's queue of direct key requests, consumed as long as there is the automation."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from contracts.queue_consumer import QueueConsumer
from contracts.retrying import retrying
from infra.automation_documents import AutomationDocuments, AutomationId
from infra.background_tasks import BackgroundTasks
from infra.broker import lease_queue
from infra.consumed_deliveries import ConsumedDelivery, deliveries
from infra.consuming import Consuming
from infra.deliveries import DeliveriesInHand, Delivery, reject_if_it_fails
from infra.mongo import Mongo, PyMongoError
from infra.settings import Settings

log = structlog.get_logger()

#: The list of automations is read again after so long, in case an event was missed, in seconds.
RELOAD_S = 25.0
#: The first pause before it is read again where MongoDB is away, and the longest, in seconds.
RETRY_S = 2.0
LONGEST_RETRY_S = 10.0
#: Requests of one automation that a worker has in hand at a time; few of them wait.
PREFETCH = 20

Handle = Callable[[Delivery, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Automation:
    id: AutomationId


class LeaseQueues:
    """The queues that this worker consumes, and the deliveries that it is busy with.

    Args:
        settings: which automations are served.
        mongo: where automations are.
        consuming: consumes the queues.
        handle: does a delivery of an automation and acknowledges it.
    """

    def __init__(self, settings: Settings, mongo: Mongo, consuming: Consuming, handle: Handle) -> None:
        self._settings = settings
        self._mongo = mongo
        self._consuming = consuming
        self._channels = consuming.channels()
        self._handle = handle
        self._documents = AutomationDocuments(_Automation)
        self._consumers: dict[str, QueueConsumer] = {}
        self._busy = DeliveriesInHand("leases")
        self._tasks = BackgroundTasks("leases")
        self._reload = asyncio.Event()

    async def start(self) -> int:
        """Consume every queue, and keep up with automations from now on.

        Returns:
            How many queues there are; each was tried once.
        """
        await self._refresh()
        self._tasks.keep("reload", self._keep_up)
        for consumer in list(self._consumers.values()):
            await consumer.tried.wait()
        return len(self._consumers)

    def reload(self) -> None:
        """Look at once which automations there are."""
        self._reload.set()

    async def stop(self, grace_s: float) -> None:
        """Take no more deliveries, and give those under way so long to finish, in seconds."""
        await self._tasks.close()
        await asyncio.gather(*(self._consuming.end(consumer) for consumer in self._consumers.values()))
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
                note=lambda error: log.warning("queues_not_reloaded", error=type(error).__name__),
            )

    async def _refresh(self) -> None:
        lanes = self._settings.lanes
        query = {"_id": {"$in": sorted(lanes)}} if lanes else {}
        documents = [found async for found in self._mongo.automations.find(query, {"_id": 1})]
        wanted = {automation.id for automation in self._documents.readable(documents)}
        for gone in self._consumers.keys() - wanted:
            await self._consuming.end(self._consumers.pop(gone))
        for automation_id in sorted(wanted - self._consumers.keys()):
            self._consumers[automation_id] = self._consuming.consume(
                "leases",
                lease_queue(automation_id, self._settings),
                deliveries(partial(self._on_delivery, automation_id)),
                prefetch=PREFETCH,
                channels=self._channels,
            )

    async def _on_delivery(self, automation_id: str, message: ConsumedDelivery) -> None:
        handling = self._handle(message, automation_id)
        self._busy.do(reject_if_it_fails(message, automation_id, handling))

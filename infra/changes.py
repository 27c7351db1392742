"""Hears that an operator changed something, or that a key's status did: a queue of each process's own."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiormq.abc import AbstractChannel, DeliveredMessage

from contracts import names
from contracts.consumer_channels import Take
from infra.consuming import Consuming
from infra.queue_declaration import DeclaredQueue

if TYPE_CHECKING:
    from infra.consumed_metrics import BatchMetrics

#: A queue whose process is gone is deleted after so long, in milliseconds.
EXPIRES_MS = 60_000
#: What is heard costs nothing to do, and is not acknowledged.
PREFETCH = 100


async def hear_changes(
    consuming: Consuming, worker_id: str, heard: Callable[[str], None], metrics: "BatchMetrics | None" = None
) -> None:
    """Hear of changed keys, limits and automations from now on; return when their queue was tried.

    Args:
        consuming: consumes the queue.
        worker_id: whose queue it is.
        heard: told the id of the automation whose something changed.
        metrics: counts what is heard.
    """
    queue = DeclaredQueue(
        f"reload.{worker_id}",
        {"x-queue-type": "classic", "x-expires": EXPIRES_MS},
        tuple((names.EVENTS_EXCHANGE, binding) for binding in names.RELOAD_BINDINGS),
    )

    def receive(_: AbstractChannel) -> Take:
        return hear

    async def hear(message: DeliveredMessage) -> None:
        routing_key = message.routing_key or ""
        if metrics is not None:
            metrics.end([metrics.begin(message.exchange or "", routing_key, len(message.body))])
        automation_id = routing_key.rpartition(".")[2]
        # What came through an exchange of an automation's own is nobody's word.
        if message.exchange == names.EVENTS_EXCHANGE and names.is_automation_id(automation_id):
            heard(automation_id)

    consumer = consuming.consume(
        "changes", queue, receive, prefetch=PREFETCH, no_ack=True, with_topology=True
    )
    await consumer.tried.wait()

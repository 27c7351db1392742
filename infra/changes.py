"""Hears that an operator changed something, or that a key's status did: a queue of each process's own."""

from collections.abc import Callable

from faststream import AckPolicy
from faststream.rabbit import (
    ExchangeType,
    QueueType,
    RabbitBroker,
    RabbitExchange,
    RabbitMessage,
    RabbitQueue,
)

from contracts import names

#: A queue whose process is gone is deleted after so long, in milliseconds.
EXPIRES_MS = 60_000


def hear_changes(broker: RabbitBroker, worker_id: str, heard: Callable[[str], None]) -> None:
    """Subscribe to changed keys, limits and automations; before the broker starts.

    Args:
        broker: FastStream's.
        worker_id: whose queues they are.
        heard: told the id of the automation whose something changed.
    """
    events = RabbitExchange(names.EVENTS_EXCHANGE, type=ExchangeType.TOPIC, durable=True, declare=False)

    async def hear(message: RabbitMessage) -> None:
        raw = message.raw_message
        automation_id = (raw.routing_key or "").rpartition(".")[2]
        # What came through an exchange of an automation's own is nobody's word.
        if raw.exchange == names.EVENTS_EXCHANGE and names.is_automation_id(automation_id):
            heard(automation_id)

    for number, binding in enumerate(names.RELOAD_BINDINGS):
        queue = RabbitQueue(
            f"reload.{worker_id}.{number}",
            queue_type=QueueType.CLASSIC,
            durable=True,
            routing_key=binding,
            arguments={"x-expires": EXPIRES_MS},
        )
        broker.subscriber(queue, events, ack_policy=AckPolicy.ACK_FIRST, no_reply=True)(hear)

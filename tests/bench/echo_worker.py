"""The bare round trip: what comes from a quorum queue is answered with a constant, then acknowledged.

KEYWAY_AMQP_URL=… python -m tests.bench.echo_worker QUEUE
"""

import asyncio
import os
import sys

import aiormq
import uvloop
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from tests.bench.provider import ANSWER

PREFETCH = 64


async def run(queue: str) -> None:
    connection = await aiormq.connect(os.environ["KEYWAY_AMQP_URL"])
    channel = await connection.channel(publisher_confirms=False)
    assert isinstance(channel, Channel)
    await channel.basic_qos(prefetch_count=PREFETCH)
    await channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})

    async def answer(message: DeliveredMessage) -> None:
        asked = message.header.properties
        marks = aiormq.spec.Basic.Properties(correlation_id=asked.correlation_id, delivery_mode=2)
        await channel.basic_publish(ANSWER, routing_key=asked.reply_to or "", properties=marks, wait=False)
        await channel.basic_ack(message.delivery_tag or 0, wait=False)

    await channel.basic_consume(queue, answer)
    sys.stderr.write("worker_ready\n")
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1]))

"""The least that a safe worker can do: consume, call, reply with a confirm, acknowledge.

KEYWAY_AMQP_URL=… BENCH_BASE_URL=… python -m tests.bench.floor_worker QUEUE
"""

import asyncio
import os
import sys

import httpx2
import orjson
import uvloop
from aio_pika import DeliveryMode, Message, connect
from aio_pika.abc import AbstractIncomingMessage
from openai import AsyncOpenAI, DefaultAioHttpClient

PREFETCH = 64


async def run(queue_name: str) -> None:
    client = AsyncOpenAI(
        api_key="sk-bench",
        base_url=os.environ["BENCH_BASE_URL"],
        max_retries=0,
        http_client=DefaultAioHttpClient(),
    )
    async with await connect(os.environ["KEYWAY_AMQP_URL"]) as connection:
        replies = await connection.channel(publisher_confirms=True)
        requests = await connection.channel(publisher_confirms=False)
        await requests.set_qos(prefetch_count=PREFETCH)
        queue = await requests.declare_queue(queue_name, durable=True, arguments={"x-queue-type": "quorum"})

        async def answer(message: AbstractIncomingMessage) -> None:
            request = orjson.loads(message.body)
            response = await client.post(
                request["path"],
                cast_to=httpx2.Response,
                content=orjson.dumps(request["body"]),
                options={"headers": {"Content-Type": "application/json"}},
            )
            reply = Message(
                response.content,
                correlation_id=message.correlation_id,
                delivery_mode=DeliveryMode.PERSISTENT,
            )
            await replies.default_exchange.publish(reply, message.reply_to or "")
            await message.ack()

        await queue.consume(answer)
        sys.stderr.write("worker_ready\n")
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1]))

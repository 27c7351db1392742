"""The worker that one writes first: FastStream and the OpenAI SDK as they come, no limits, no accounting.

Only FastStream's log lines are off, of which it would write two a request: Keyway's worker writes one.

    KEYWAY_AMQP_URL=… BENCH_BASE_URL=… python -m tests.bench.naive_worker QUEUE
"""

import os
import sys
from typing import Any

import uvloop
from faststream import FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from openai import AsyncOpenAI

PREFETCH = 64

broker = RabbitBroker(os.environ["KEYWAY_AMQP_URL"], logger=None)
app = FastStream(broker, logger=None)
client = AsyncOpenAI(api_key="sk-bench", base_url=os.environ["BENCH_BASE_URL"])
requests = RabbitQueue(sys.argv[1], queue_type=QueueType.QUORUM, durable=True)


@broker.subscriber(requests, channel=Channel(prefetch_count=PREFETCH))
async def generate(request: dict[str, Any]) -> dict[str, Any]:
    completion = await client.chat.completions.create(**request["body"])
    answer: dict[str, Any] = completion.model_dump(mode="json")
    return answer


@app.after_startup
async def say_ready() -> None:
    sys.stderr.write("worker_ready\n")


if __name__ == "__main__":
    uvloop.run(app.run())

"""A closed loop of requests over AMQP: so many in flight, each answer sends the next.

    KEYWAY_AMQP_URL=… python -m tests.bench.load --exchange requests --routing-key bench \
        --reply-to replies.bench.load --requests 5000 --in-flight 64

It prints one line of JSON: `seconds`, and the latencies `p50_ms` and `p99_ms`.
"""

import argparse
import asyncio
import os
import secrets
import statistics
import sys
import time

import orjson
import uvloop
from aio_pika import DeliveryMode, Message, connect
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

BODY = orjson.dumps(
    {
        "path": "/chat/completions",
        "body": {
            "model": "gpt-4o-mini",
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "Say in one sentence what a message broker is good for."},
            ],
        },
    }
)
#: How every answer of each worker can be told from a failure.
ANSWER = b'"chat.completion"'
#: How long one answer may take, in seconds.
ANSWER_TIMEOUT_S = 60.0


class Caller:
    """Sends requests and takes their answers."""

    def __init__(self, exchange: AbstractExchange, routing_key: str, reply_to: str) -> None:
        self._exchange = exchange
        self._routing_key = routing_key
        self._reply_to = reply_to
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self.latencies_ms: list[float] = []

    async def take(self, message: AbstractIncomingMessage) -> None:
        self._waiting.pop(message.correlation_id or "").set_result(message.body)

    async def ask(self) -> None:
        request_id = secrets.token_hex(8)
        answer = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        message = Message(
            BODY,
            content_type="application/json",
            message_id=request_id,
            correlation_id=request_id,
            reply_to=self._reply_to,
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        began = time.perf_counter()
        await self._exchange.publish(message, self._routing_key)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            body = await answer
        self.latencies_ms.append((time.perf_counter() - began) * 1000)
        if ANSWER not in body.replace(b" ", b""):
            raise RuntimeError(f"not an answer: {body[:300]!r}")


async def run(options: argparse.Namespace) -> dict[str, float]:
    async with await connect(os.environ["KEYWAY_AMQP_URL"]) as connection:
        channel = await connection.channel(publisher_confirms=False)
        replies = await channel.declare_queue(options.reply_to, exclusive=True)
        exchange = (
            await channel.get_exchange(options.exchange, ensure=False)
            if options.exchange
            else channel.default_exchange
        )
        caller = Caller(exchange, options.routing_key, options.reply_to)
        await replies.consume(caller.take, no_ack=True)
        numbers = iter(range(options.requests))

        async def keep_asking() -> None:
            for _ in numbers:
                await caller.ask()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(options.in_flight):
                group.create_task(keep_asking())
        seconds = time.perf_counter() - began
        percentiles = statistics.quantiles(caller.latencies_ms, n=100)
        return {"seconds": seconds, "p50_ms": percentiles[49], "p99_ms": percentiles[98]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description=__doc__)
    parser.add_argument("--exchange", default="", help="the default exchange, if none is named")
    parser.add_argument("--routing-key", required=True)
    parser.add_argument("--reply-to", required=True, help="the queue for answers; it is made and removed")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(run(parser.parse_args()))) + b"\n")


if __name__ == "__main__":
    main()

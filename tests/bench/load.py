"""A load of requests over AMQP, from a process of its own.

    KEYWAY_AMQP_URL=… python -m tests.bench.load --exchange requests --routing-keys bench \
        --reply-to replies.bench.load --requests 5000 --in-flight 64

With `--in-flight` it is a closed loop, with `--rate` an open one. It prints one line of JSON:
`pacing.Load`. It stands on aiormq, since the fewer cores it takes, the more are left to what is measured.
"""

import argparse
import asyncio
import itertools
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiormq
import orjson
import uvloop
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from contracts.names import DIRECT_REPLY_TO
from tests.bench.pacing import closed_loop, open_loop

REQUEST = {
    "model": "gpt-4o-mini",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Say in one sentence what a message broker is good for."},
    ],
}
BODY = orjson.dumps({"path": "/chat/completions", "body": REQUEST})
#: The same as the message of a Celery task with one argument (its protocol 2).
CELERY_TASK = "bench.generate"
CELERY_BODY = orjson.dumps(
    [[REQUEST], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
)
#: How every answer of each worker can be told from a failure.
ANSWER = b'"chat.completion"'
#: How long one answer may take, in seconds.
ANSWER_TIMEOUT_S = 120.0


def properties(request_id: str, reply_to: str, form: str) -> aiormq.spec.Basic.Properties:
    """How a request is marked, in the form of Keyway's wire or of a Celery task."""
    headers: dict[str, Any] | None = None
    if form == "celery":
        headers = {"lang": "py", "task": CELERY_TASK, "id": request_id, "root_id": request_id, "retries": 0}
    return aiormq.spec.Basic.Properties(
        content_type="application/json",
        content_encoding="utf-8",
        message_id=request_id,
        correlation_id=request_id,
        reply_to=reply_to,
        delivery_mode=2,
        headers=headers,
    )


class Caller:
    """Sends requests, to one routing key after the other, and takes their answers."""

    def __init__(
        self, channel: Channel, exchange: str, routing_keys: Sequence[str], reply_to: str, form: str
    ) -> None:
        self._channel = channel
        self._exchange = exchange
        self._routing_keys = itertools.cycle(routing_keys)
        self._reply_to = reply_to
        self._form = form
        self._body = CELERY_BODY if form == "celery" else BODY
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def take(self, message: DeliveredMessage) -> None:
        # An answer may come twice: the first is the one that was waited for.
        answer = self._waiting.pop(message.header.properties.correlation_id or "", None)
        if answer is not None:
            answer.set_result(message.body)

    async def ask(self) -> None:
        """One request and its answer.

        Raises:
            RuntimeError: the answer tells of a failure.
            TimeoutError: none came.
        """
        request_id = secrets.token_hex(8)
        answer = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        await self._channel.basic_publish(
            self._body,
            exchange=self._exchange,
            routing_key=next(self._routing_keys),
            properties=properties(request_id, self._reply_to, self._form),
            wait=False,
        )
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            body = await answer
        if ANSWER not in body.replace(b" ", b""):
            raise RuntimeError(f"not an answer: {body[:300]!r}")


async def run(options: argparse.Namespace) -> bytes:
    connection = await aiormq.connect(os.environ["KEYWAY_AMQP_URL"])
    try:
        channel = await connection.channel(publisher_confirms=False)
        assert isinstance(channel, Channel)
        if options.reply_to != DIRECT_REPLY_TO:
            await channel.queue_declare(options.reply_to, exclusive=True)
        routing_keys = options.routing_keys or options.routing_keys_file.read_text().split()
        caller = Caller(channel, options.exchange, routing_keys, options.reply_to, options.form)
        await channel.basic_consume(options.reply_to, caller.take, no_ack=True)
        if options.rate:
            load = await open_loop(caller.ask, requests=options.requests, rate=options.rate)
        else:
            load = await closed_loop(caller.ask, requests=options.requests, in_flight=options.in_flight)
        return orjson.dumps(load)
    finally:
        await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load")
    parser.add_argument("--exchange", default="", help="the default exchange, if none is named")
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--routing-keys", nargs="+", help="asked in turns")
    to.add_argument("--routing-keys-file", type=Path)
    parser.add_argument("--reply-to", required=True, help="the queue for answers; it is made and removed")
    parser.add_argument("--form", choices=("keyway", "celery"), default="keyway")
    parser.add_argument("--requests", type=int, required=True)
    pace = parser.add_mutually_exclusive_group(required=True)
    pace.add_argument("--in-flight", type=int, help="a closed loop")
    pace.add_argument("--rate", type=float, help="an open loop, requests a second")
    sys.stdout.buffer.write(uvloop.run(run(parser.parse_args())) + b"\n")


if __name__ == "__main__":
    main()

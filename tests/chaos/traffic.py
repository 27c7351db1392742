"""Traffic as an automation makes it: requests published until confirmed, and the replies to them.

It outlives the broker: what was not confirmed is published again under the same id, and the durable reply
queue is consumed again after each reconnect.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import orjson
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from contracts.messages import GenerationResult
from tests.chaos.judge import Verdict, judge
from tests.harness import World, eventually

BROKER_AWAY = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)
CONFIRM_S = 10.0
RETRY_S = 0.2
#: How long the provider takes, in milliseconds: so long that what is killed has calls in flight.
LATENCY = {"latency_ms": {"mean": 150, "sigma": 0.6}}


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked while something is harmed.

    Attributes:
        per_second: requests.
        some: so many answers show that there is load.
    """

    per_second: float
    some: int


class Traffic:
    """One automation's requests and replies, by the time at which they were confirmed and came."""

    def __init__(self, world: World, bot: str) -> None:
        self._world, self.bot = world, bot
        self._replies = f"replies.{bot}.chaos"
        self._publishing: set[asyncio.Task[None]] = set()
        self._seen: set[bytes] = set()
        self.asked = 0
        self.confirmed: dict[str, float] = {}
        self.answered: dict[str, float] = {}
        self.answers: list[GenerationResult] = []

    async def __aenter__(self) -> Self:
        publishing = await self._world.connection.channel(publisher_confirms=True, on_return_raises=True)
        self._requests = await publishing.get_exchange("requests", ensure=False)
        collecting = await self._world.connection.channel()
        await collecting.set_qos(prefetch_count=200)
        queue = await collecting.declare_queue(
            self._replies, durable=True, arguments={"x-queue-type": "quorum"}
        )
        await queue.consume(self._take)
        self._channels = (publishing, collecting)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._publishing:
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    def ask(self, count: int = 1) -> list[str]:
        """Begin to publish so many requests.

        Returns:
            Their ids.
        """
        ids = [f"r-{number:05}" for number in range(self.asked, self.asked + count)]
        self.asked += count
        for request_id in ids:
            task = asyncio.create_task(self._publish(request_id))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)
        return ids

    async def keep_asking(self, load: Load) -> None:
        """Publish at its rate, until cancelled."""
        while True:
            self.ask()
            await asyncio.sleep(random.expovariate(load.per_second))

    async def have_answers(self, count: int) -> None:
        """Wait for the answers of so many requests."""

        async def there() -> bool:
            return len(self.answered) >= count

        await eventually(there, f"{count} answered; {len(self.confirmed)} confirmed")

    async def flow(self, load: Load) -> None:
        """Wait until some more requests are answered: there is load."""
        await self.have_answers(len(self.answered) + load.some)

    async def finish(self) -> Verdict:
        """Wait until all is confirmed, answered and booked, and judge it."""

        async def confirmed() -> bool:
            return len(self.confirmed) == self.asked

        async def answered() -> bool:
            return self.answered.keys() >= self.confirmed.keys()

        try:
            await eventually(confirmed, f"all {self.asked} confirmed")
            await eventually(answered, f"all {self.asked} answered")
            await eventually(self._booked, "each call booked, and each repeat answered")
        except AssertionError as late:
            (await self._judge()).assert_kept()
            raise AssertionError(f"{late}, though in the end nothing is missing") from None
        for dimension in ("key", "automation", "model"):
            await self._world.assert_totals_equal_ledger(self.bot, dimension)
        return await self._judge()

    async def recovery_s(self, since: float) -> float:
        """Seconds from `since` (monotonic) to the first answer to a request that was confirmed after it."""

        def recovered() -> list[float]:
            return [at for request, at in self.answered.items() if self.confirmed.get(request, 0) > since]

        async def there() -> bool:
            return bool(recovered())

        await eventually(there, "an answer to a request made after the return")
        return min(recovered()) - since

    async def _publish(self, request_id: str) -> None:
        message = Message(
            _body(request_id),
            type="generation.request.v1",
            content_type="application/json",
            message_id=request_id,
            correlation_id=request_id,
            reply_to=self._replies,
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        while True:
            try:
                await self._requests.publish(message, self.bot, timeout=CONFIRM_S)
            except BROKER_AWAY:
                await asyncio.sleep(RETRY_S)
            else:
                self.confirmed[request_id] = time.monotonic()
                return

    async def _take(self, message: AbstractIncomingMessage) -> None:
        # A delivery that the broker repeats, since its acknowledgement was lost, is no second reply.
        if not (message.redelivered and message.body in self._seen):
            self._seen.add(message.body)
            answer = GenerationResult.model_validate_json(message.body)
            self.answers.append(answer)
            self.answered.setdefault(answer.request_id, time.monotonic())
        try:
            await message.ack()
        except BROKER_AWAY:
            return

    async def _booked(self) -> bool:
        calls = Counter(
            call["client_request_id"]
            for call in await self._world.journal(self.bot)
            if call["path"] != "/models"
        )
        rows = Counter(row["request_id"] for row in await self._world.ledger(self.bot))
        return all(rows[request_id] >= made for request_id, made in calls.items())

    async def _judge(self) -> Verdict:
        calls = await self._world.journal(self.bot)
        rows = await self._world.ledger(self.bot)
        return judge(self.confirmed.keys(), self.answers, calls, rows, self._doubts())

    def _doubts(self) -> Counter[str]:
        """Of how many calls of each request workers have logged that nobody knows whether they were made."""
        doubts: set[tuple[str, int]] = set()
        for service in self._world.services:
            for line in service.log.read_bytes().splitlines():
                with suppress(orjson.JSONDecodeError):  # the last line of a worker that was killed
                    event = orjson.loads(line)
                    if event.get("event") == "attempt_ambiguous":
                        doubts.add((event["request_id"], event["number"]))
        return Counter(request_id for request_id, _ in doubts)


def _body(request_id: str) -> bytes:
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"request {request_id}"}]
    return orjson.dumps({"path": "/chat/completions", "body": {"model": "gpt-4o-mini", "messages": messages}})

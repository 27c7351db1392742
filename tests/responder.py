"""A worker's part, played by a test: takes requests of an automation that no worker serves, and answers."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self

from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from contracts import names
from infra.direct_addresses import DirectAddresses
from tests.harness import PATIENCE_S, World, eventually


def result(request_id: str, bot: str, **changes: Any) -> dict[str, Any]:
    """A good result, with these fields changed."""
    calm: dict[str, Any] = {
        "request_id": request_id,
        "automation_id": bot,
        "status": "succeeded",
        "response": None,
        "error": None,
        "usage": {},
        "cost_nanousd": 0,
        "model": None,
        "key_alias": None,
        "attempts": [],
        "timings": {"queued_ms": 0, "waited_ms": 0, "upstream_ms": 0, "total_ms": 0},
        "replayed": False,
    }
    return calm | changes


def failure(code: str, **changes: Any) -> dict[str, Any]:
    """What a failed result has beside the request's own."""
    error = {"code": code, "message": "what happened", "retryable": False, "retry_at": None, **changes}
    return {"status": "failed", "error": error}


@dataclass
class Asked:
    """One request that was taken."""

    bot: str
    message: AbstractIncomingMessage
    channel: AbstractChannel
    addresses: DirectAddresses

    @property
    def request_id(self) -> str:
        return self.message.message_id or ""

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.message.body)
        return body

    async def send(self, message_type: str, body: bytes) -> None:
        """Send an answer of any kind."""
        answer = Message(body, type=message_type, correlation_id=self.message.correlation_id)
        await self.channel.default_exchange.publish(answer, self.message.reply_to or "", mandatory=False)

    async def chunk(self, index: int, *, restarted: bool = False) -> None:
        chunk = {"request_id": self.request_id, "index": index, "data": {"n": index}, "restarted": restarted}
        await self.send(names.GENERATION_CHUNK, json.dumps(chunk).encode())

    async def chunks(self, *indices: int) -> None:
        for index in indices:
            await self.chunk(index)

    async def result(self, **changes: Any) -> None:
        answer = result(self.request_id, self.bot, **changes)
        await self.send(names.GENERATION_RESULT, json.dumps(answer).encode())

    async def until_nobody_listens(self) -> None:
        """Wait until the broker knows of nobody at the reply address."""

        async def is_gone() -> bool:
            return not await self.addresses.is_there(self.message.reply_to or "", self.bot)

        await eventually(is_gone, "the reply address gone")


class Responder:
    """Takes an automation's requests as they come."""

    def __init__(self, world: World, bot: str, *, queue: str | None = None) -> None:
        self._world, self._bot = world, bot
        self._queue = queue or names.lane_queue(bot)
        self._taken: asyncio.Queue[Asked] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._channel = await self._world.connection.channel()
        self._addresses = DirectAddresses(self._world.connection)
        lane = await self._channel.get_queue(self._queue, ensure=False)
        await lane.consume(self._take, no_ack=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._taken.put_nowait(Asked(self._bot, message, self._channel, self._addresses))

    async def take(self) -> Asked:
        """The next request."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._taken.get()

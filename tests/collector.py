"""Requests published as they are, by anybody, and what comes back to their reply queue."""

import secrets
from typing import Any, Self

from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage

from contracts import names
from contracts.messages import GenerationResult
from tests.harness import PATIENCE_S, World, eventually

BODY = b'{"path": "/moderations", "body": {"model": "omni-moderation-latest", "input": "hello"}}'


class Collector:
    """A reply queue of an automation."""

    def __init__(self, world: World, bot: str) -> None:
        self._world, self._bot = world, bot
        self.queue = f"replies.{bot}.{secrets.token_hex(3)}"
        self.answers: list[GenerationResult] = []

    async def __aenter__(self) -> Self:
        self._channel = await self._world.connection.channel()
        queue = await self._channel.declare_queue(self.queue, auto_delete=True)
        await queue.consume(self._take, no_ack=True)
        self._exchange = await self._channel.get_exchange("requests", ensure=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        if message.type == names.GENERATION_CHUNK:
            return
        self.answers.append(GenerationResult.model_validate_json(message.body))

    async def ask(self, request_id: str, body: bytes = BODY, **properties: Any) -> None:
        """Publish a request whose answer comes here."""
        message = Message(body, message_id=request_id, reply_to=self.queue, **properties)
        await self._exchange.publish(message, self._bot)

    async def have(self, count: int, *, within_s: float = PATIENCE_S) -> None:
        """Wait for so many answers."""

        async def there() -> bool:
            return len(self.answers) >= count

        await eventually(there, f"{count} answers", within_s=within_s)

    async def answer(self) -> GenerationResult:
        """Wait for the next answer, and take it."""
        await self.have(1)
        return self.answers.pop(0)

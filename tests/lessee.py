"""An automation that leases keys: it speaks plain AMQP, signed in as itself."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aio_pika import Message, connect
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from contracts.messages import GenerationResult, KeyLease
from infra.mongo import Document
from tests.harness import PATIENCE_S, World, eventually

DIRECT = "amq.rabbitmq.reply-to"


@dataclass
class Bot:
    """An automation that speaks plain AMQP, signed in as itself."""

    name: str
    channel: AbstractChannel
    replies: dict[str, "asyncio.Future[AbstractIncomingMessage]"] = field(default_factory=dict)

    async def ask(self, message_id: str | None = None, **body: Any) -> KeyLease | GenerationResult:
        """Ask for a key with direct reply-to, and read what is answered."""
        correlation_id = secrets.token_hex(8)
        waiting = self.replies[correlation_id] = asyncio.get_running_loop().create_future()
        await self.send(
            body, reply_to=DIRECT, message_id=message_id or correlation_id, correlation_id=correlation_id
        )
        async with asyncio.timeout(PATIENCE_S):
            reply = await waiting
        if reply.type == "key.lease.v1":
            return KeyLease.model_validate_json(reply.body)
        assert reply.type == "generation.result.v1"
        return GenerationResult.model_validate_json(reply.body)

    async def lease(self, message_id: str | None = None, **body: Any) -> KeyLease:
        lease = await self.ask(message_id, **body)
        assert isinstance(lease, KeyLease), lease
        return lease

    async def refusal(self, **body: Any) -> tuple[str, str]:
        """The code and the message of a request that fails."""
        result = await self.ask(**body)
        assert isinstance(result, GenerationResult), result
        assert result.status == "failed"
        assert result.error is not None
        return result.error.code, result.error.message

    async def send(self, body: dict[str, Any], **properties: Any) -> None:
        exchange = await self.channel.get_exchange("requests", ensure=False)
        message = Message(json.dumps(body).encode(), type="key.lease.request.v1", **properties)
        await exchange.publish(message, f"leases.{self.name}")

    async def report(self, lease: KeyLease, report_id: str, **said: Any) -> None:
        body = {
            "lease_id": lease.lease_id,
            "report_id": report_id,
            "model": "gpt-4o-mini",
            "outcome": "ok",
            **said,
        }
        await self.tell("usage.reported.v1", body)

    async def tell(self, message_type: str, body: dict[str, Any]) -> None:
        exchange = await self.channel.get_exchange("events", ensure=False)
        message = Message(json.dumps(body).encode(), type=message_type)
        await exchange.publish(message, f"usage.reported.{self.name}")


@asynccontextmanager
async def signed_in(world: World, name: str) -> AsyncIterator[Bot]:
    async with await connect(world.url_of(name)) as connection:
        bot = Bot(name, await connection.channel())
        direct = await bot.channel.get_queue(DIRECT, ensure=False)

        async def take(message: AbstractIncomingMessage) -> None:
            # A worker that is killed before it acknowledges has its answers repeated.
            if (waiting := bot.replies.pop(message.correlation_id or "", None)) is not None:
                waiting.set_result(message)

        await direct.consume(take, no_ack=True)
        yield bot


async def add_bot(world: World) -> str:
    """An automation that may lease keys."""
    name = await world.add_automation()
    await world.provisioner.change(name, {"allow_leases": True}, actor="test")
    return name


async def call(world: World, lease: KeyLease, api_key: str | None = None) -> dict[str, Any]:
    """Call the provider with a leased key; its answer."""
    if api_key is None:
        assert lease.api_key is not None
        api_key = lease.api_key.get_secret_value()
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    async with world.simulator.session.post(
        f"{lease.base_url}/chat/completions", json=body, headers={"Authorization": f"Bearer {api_key}"}
    ) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


def tokens_of(answer: dict[str, Any]) -> dict[str, int]:
    usage = answer["usage"]
    return {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


async def document(world: World, lease: KeyLease) -> Document:
    found = await world.mongo.leases.find_one({"_id": lease.lease_id})
    assert found is not None
    return found


async def has_status(world: World, lease: KeyLease, status: str) -> None:
    async def there() -> bool:
        return bool((await document(world, lease))["status"] == status)

    await eventually(there, f"{lease.lease_id} is {status}")


async def key_document(world: World, bot: str) -> Document:
    found = await world.mongo.keys.find_one({"automation_id": bot})
    assert found is not None
    return found


async def counted(world: World, bot: str) -> tuple[int, int, int, int]:
    """What counts of a bot's key: requests and tokens of its minute, calls in flight, tokens of its day."""
    key = await key_document(world, bot)
    leased, window = key.get("leased", []), key.get("window", [])
    requests = sum(entry["n"] for entry in (*window, *leased))
    tokens = sum(entry["t"] for entry in (*window, *leased))
    in_flight = sum(hold["n"] for hold in (*key.get("held", []), *leased))
    day = key.get("day_tokens", 0) + sum(hold["t"] for hold in (*key.get("held", []), *leased))
    return requests, tokens, in_flight, day


async def let_it_end(world: World, lease: KeyLease) -> None:
    """Let a lease's end, and the time for reports after it, be over."""
    past = datetime.now(UTC) - timedelta(minutes=10)
    await world.mongo.leases.update_one({"_id": lease.lease_id}, {"$set": {"expires_at": past}})


async def dead_letter(world: World, text: str) -> str:
    """The reason of the dead letter whose body has a text."""
    reasons: list[str] = []

    async def dead() -> bool:
        async with world.connection.channel() as reading:
            queue = await reading.get_queue("dead", ensure=False)
            while (letter := await queue.get(fail=False)) is not None:
                if text.encode() in letter.body:
                    reasons.append(str(letter.headers["x-keyway-reason"]))
                    await letter.ack()
                    return True
        return False

    await eventually(dead, f"a dead letter with {text}")
    return reasons[0]


async def assert_books_are_even(world: World, bot: str) -> None:
    for dimension in ("key", "automation", "model"):
        await world.assert_totals_equal_ledger(bot, dimension)

"""Whatever comes is answered or dead-lettered with a reason, and what comes after it is served."""

import asyncio
import json
import secrets
from typing import Any

import pytest
from aio_pika import Message

from contracts import Keyway
from contracts.errors import PublishError
from contracts.messages import GenerationResult
from contracts.names import REASON_HEADER
from infra.provision import Provisioner
from tests.harness import World, eventually
from workers.keys.key import Limits

GOOD = {"path": "/moderations", "body": {"model": "omni-moderation-latest", "input": "hello"}}


async def publish(world: World, bot: str, body: bytes, **properties: Any) -> None:
    async with world.connection.channel() as channel:
        exchange = await channel.get_exchange("requests", ensure=False)
        await exchange.publish(Message(body, **properties), bot)


async def dead_letter(world: World, request_id: str) -> tuple[str, bytes]:
    """Reason and body of a dead letter; the others are left in the queue."""
    found: list[tuple[str, bytes]] = []

    async def there() -> bool:
        async with world.connection.channel() as channel:
            queue = await channel.get_queue("dead", ensure=False)
            while (message := await queue.get(fail=False)) is not None:
                if message.message_id == request_id:
                    found.append((str(message.headers[REASON_HEADER]), message.body))
                    await message.ack()
                    return True
        return False

    await eventually(there, f"a dead letter {request_id}")
    return found[0]


@pytest.mark.parametrize(
    ("body", "properties", "reason"),
    [
        (b"not json", {}, "Invalid JSON"),
        (b"\xff\x00\xfe", {}, "Invalid JSON"),
        (b'"a string"', {}, "expected a JSON object"),
        (json.dumps({**GOOD, "deadlien": "2026-11-24T10:00:00Z"}).encode(), {}, "deadlien: Extra inputs"),
        (json.dumps({"path": "/chat/completions"}).encode(), {}, "body: Field required"),
        (
            json.dumps({**GOOD, "path": "/fine_tuning/jobs"}).encode(),
            {},
            "path: Input should be '/chat/completions'",
        ),
        (json.dumps({**GOOD, "deadline": "2126-01-01T00:00:00Z"}).encode(), {}, "more than 24 h ahead"),
        (
            json.dumps({**GOOD, "deadline": "2026-01-01T00:00:00"}).encode(),
            {},
            "deadline: Input should have timezone",
        ),
        (json.dumps(GOOD).encode(), {"type": "generation.request.v9"}, "type is 'generation.request.v9'"),
        (
            b'{"path": "/embeddings", "body": {"input": "' + b"x" * 5_000_000 + b'"}}',
            {},
            "bytes, more than the",
        ),
    ],
    ids=["text", "bytes", "no-object", "typo", "no-body", "path", "far", "naive", "type", "5-MB"],
)
async def test_what_is_not_a_request_is_answered_and_dead_lettered_with_its_reason(
    shared: World, body: bytes, properties: dict[str, Any], reason: str
) -> None:
    bot = await shared.add_automation()
    request_id = secrets.token_hex(8)
    async with shared.connection.channel() as channel:
        replies = await channel.declare_queue(f"replies.{bot}", exclusive=True)
        properties = {"reply_to": replies.name, "message_id": request_id, "correlation_id": "c", **properties}
        await publish(shared, bot, body, **properties)

        async def answered() -> bool:
            answer = await replies.get(no_ack=True, fail=False)
            if answer is None:
                return False
            answers.append(GenerationResult.model_validate_json(answer.body))
            return True

        answers: list[GenerationResult] = []
        await eventually(answered, "an answer")
    (answer,) = answers
    assert answer.status == "failed"
    assert answer.error is not None
    assert answer.error.code == "invalid_request"
    assert not answer.error.retryable
    assert reason in answer.error.message
    why, original = await dead_letter(shared, request_id)
    assert why.startswith("invalid_request: ")
    assert reason in why
    assert original == body


async def test_an_answer_never_goes_to_a_queue_that_is_not_the_automations_own(shared: World) -> None:
    bot, victim = await shared.add_automation(), await shared.add_automation()
    async with shared.connection.channel() as channel:
        foreign = await channel.declare_queue(f"replies.{victim}", exclusive=True)
        request_id = secrets.token_hex(8)
        body = json.dumps(GOOD).encode()
        await publish(shared, bot, body, reply_to=foreign.name, message_id=request_id)
        why, _ = await dead_letter(shared, request_id)
        assert "reply_to is neither" in why
        assert await foreign.get(fail=False) is None
    assert await shared.journal(bot) == []


async def test_a_lane_serves_on_after_bad_input(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    for number in range(20):
        await publish(shared, bot, b"\x00" * number, message_id=secrets.token_hex(8))
    async with shared.client(bot) as keyway:
        assert (await keyway.generate("/moderations", input="hello")).status == "succeeded"


async def test_an_unknown_automation_is_an_error_at_once(shared: World) -> None:
    url = shared.settings.amqp_url.get_secret_value()
    async with Keyway(url, automation_id="nobody") as keyway:
        with pytest.raises(PublishError, match="no automation nobody"):
            await keyway.generate("/moderations", input="hello")


async def test_a_full_lane_refuses_the_next_request_with_a_clear_error(shared: World) -> None:
    settings = shared.settings.model_copy(update={"lane_max_length": 2})
    bot = f"bot-{secrets.token_hex(4)}"
    provisioner = Provisioner(shared.mongo, shared.admin, shared.connection, settings)
    shared.tokens[bot] = await provisioner.add(bot, actor="test")
    await shared.add_key(bot, "Primary", limits=Limits(requests_per_minute=1))
    async with shared.client(bot) as keyway:
        await keyway.generate("/moderations", input="the only one of this minute")

        async def ask() -> None:
            await keyway.generate("/moderations", input="hello", timeout=120)

        asking: list[asyncio.Task[None]] = []

        async def is_refused() -> bool:
            # The limit is a soft one: a burst passes it before RabbitMQ says no.
            asking.append(asyncio.create_task(ask()))
            return any(task.done() for task in asking)

        await eventually(is_refused, "a refusal")
        done, waiting = await asyncio.wait(asking, timeout=0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert waiting
    for task in done:
        with pytest.raises(PublishError, match="is full; try again later"):
            task.result()

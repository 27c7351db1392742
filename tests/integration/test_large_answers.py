"""An answer that RabbitMQ does not carry is one error at once, which says so; it is paid for, and booked."""

import json

import pytest
from aio_pika import Message

from contracts.errors import GenerationError, InternalError
from tests.harness import World

#: What the worker is told that RabbitMQ takes, in bytes; in truth it takes more.
LIMIT = 64 * 1024
LARGE = {"model": "text-embedding-3-small", "input": ["word"] * 12}
SMALL = LARGE | {"dimensions": 8}


@pytest.fixture
async def limited(world: World) -> World:
    await world.start_accounting()
    await world.start_worker(KEYWAY_MAX_MESSAGE_BYTES=str(LIMIT))
    return world


async def test_an_answer_above_the_limit_is_one_error_that_names_size_and_limit(limited: World) -> None:
    bot = await limited.add_automation()
    await limited.add_key(bot, "Primary")
    refusals: list[GenerationError] = []
    async with limited.client(bot) as keyway:
        for _ in range(2):
            with pytest.raises(InternalError, match=f"too large .* bytes.*{LIMIT} bytes") as refused:
                await keyway.generate("/embeddings", LARGE, request_id="large")
            refusals.append(refused.value)
        assert (await keyway.generate("/embeddings", SMALL)).status == "succeeded"
    assert [refused.retryable for refused in refusals] == [False, False]
    assert [refused.result.replayed for refused in refusals] == [False, True]
    assert refusals[0].result.cost_nanousd > 0
    assert [attempt.outcome for attempt in refusals[0].result.attempts] == ["ok"]
    assert [call["http_status"] for call in await limited.journal(bot)] == [200, 200]
    rows = await limited.accounted(bot, 2)
    assert [(row["outcome"], row["error_code"]) for row in rows] == [("ok", "answer_too_large"), ("ok", None)]
    await limited.assert_books_equal_journal(bot)
    status, shown, _ = await limited.cli("results", "show", bot, "large", "--json")
    assert (status, json.loads(shown)["error"]["message"]) == (0, str(refusals[0]))


async def test_a_chunk_above_the_limit_ends_the_stream_with_that_error(limited: World) -> None:
    bot = await limited.add_automation()
    await limited.add_key(bot, "Primary")
    async with limited.client(bot) as keyway:
        large = keyway.stream("/responses", model="gpt-4o-mini", input="hello", instructions="x" * LIMIT)
        with pytest.raises(InternalError, match=f"a chunk of the answer is too large .*{LIMIT} bytes"):
            async for _ in large:
                pass
        whole = [chunk async for chunk in keyway.stream("/responses", model="gpt-4o-mini", input="hello")]
    assert whole
    await limited.assert_books_equal_journal(bot)


async def test_an_answer_that_nobody_wants_may_have_any_size(limited: World) -> None:
    bot = await limited.add_automation()
    await limited.add_key(bot, "Primary")
    channel = await limited.connection.channel()
    exchange = await channel.get_exchange("requests", ensure=False)
    body = json.dumps({"path": "/embeddings", "body": LARGE}).encode()
    await exchange.publish(Message(body, message_id="unasked"), bot)
    (row,) = await limited.accounted(bot, 1)
    assert (row["outcome"], row["error_code"]) == ("ok", None)

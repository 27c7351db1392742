"""RabbitMQ takes smaller messages than Keyway believes: what is too large harms itself alone."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from contracts.errors import InternalError, PublishError
from infra.local.rabbitmq import RabbitMQ
from tests.chaos.erlang import evaluate
from tests.harness import World

#: What RabbitMQ takes, in bytes, and what it takes by itself.
LIMIT = 1024 * 1024
USUAL = 128 * 1024 * 1024
LARGE = {"model": "text-embedding-3-small", "input": ["word"] * 100}
SMALL = LARGE | {"dimensions": 8}


@pytest.fixture
async def limited(world_on_rabbitmq: World, rabbitmq: RabbitMQ) -> AsyncIterator[World]:
    """A Keyway on a RabbitMQ that takes no more than `LIMIT`."""
    await _limit(rabbitmq, LIMIT)
    yield world_on_rabbitmq
    await _limit(rabbitmq, USUAL)


async def _limit(rabbitmq: RabbitMQ, size: int) -> None:
    await evaluate(rabbitmq, f"application:set_env(rabbit, max_message_size, {size}).")


async def test_a_message_above_the_brokers_limit_harms_no_other(limited: World) -> None:
    world = limited
    await world.start_accounting()
    worker = await world.start_worker()
    loud, calm = await world.add_automation(), await world.add_automation()
    for bot in (loud, calm):
        await world.add_key(bot, "Primary", {"latency_ms": 200})
    await _answers(world, loud, calm)
    events = [event["event"] for event in worker.events()]
    # The first tells the limit; those that were on their way with it are told by their own refusals.
    assert 1 <= events.count("answer_too_large") <= 5
    assert {"reply_delayed", "reply_given_up", "publish_delayed", "task_failed"} & set(events) == set()
    await _requests(world, calm)


async def _answers(world: World, loud: str, calm: str) -> None:
    async with world.client(loud) as one, world.client(calm) as other:
        large = [asyncio.create_task(one.generate("/embeddings", LARGE)) for _ in range(5)]
        small = [asyncio.create_task(other.generate("/embeddings", SMALL)) for _ in range(120)]
        refused = await asyncio.gather(*large, return_exceptions=True)
        answers = await asyncio.gather(*small)
        with pytest.raises(InternalError, match=f"{LIMIT} bytes"):
            await one.generate("/embeddings", LARGE)
    assert {type(error) for error in refused} == {InternalError}
    assert all(f"{LIMIT} bytes" in str(error) for error in refused)
    assert [answer.replayed for answer in answers] == [False] * 120
    await world.assert_books_equal_journal(loud)
    await world.assert_books_equal_journal(calm)


async def _requests(world: World, bot: str) -> None:
    """What a client publishes that is too large is refused alone, too."""
    large = SMALL | {"input": ["x" * LIMIT]}
    async with world.client(bot) as keyway:
        small = [asyncio.create_task(keyway.generate("/embeddings", SMALL)) for _ in range(20)]
        for _ in range(2):
            with pytest.raises(PublishError, match=f"too large: it has \\d+ bytes.* {LIMIT} bytes"):
                await keyway.generate("/embeddings", large)
        assert [answer.replayed for answer in await asyncio.gather(*small)] == [False] * 20
        within = SMALL | {"input": ["x" * (LIMIT // 2)]}
        assert (await keyway.generate("/embeddings", within)).status == "succeeded"

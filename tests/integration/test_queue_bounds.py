"""A bound in bytes: who floods the broker with large messages is refused, so that no disk fills.

All is on the real RabbitMQ: which of its queues a policy holds for, and what they do at the bound.
"""

import asyncio
import re
from typing import Any

import pytest
from aio_pika import Message
from aiormq.exceptions import DeliveryError

from contracts import names
from contracts.errors import PublishError
from infra.queue_bounds import LANES, REPLIES, bound_queues, policies
from tests.harness import World, eventually

MAX_BYTES = 1_000_000
LARGE = "x" * 100_000
PUBLISHED = 30


async def test_init_bounds_lanes_and_reply_queues(world: World) -> None:
    patterns = {}
    for name, policy in policies(world.settings.queue_max_bytes).items():
        found = await world.admin.call("GET", f"policies/{{vhost}}/{name}")
        assert {field: found[field] for field in policy} == policy
        patterns[name] = policy["pattern"]
    for queue, expected in (
        (names.lane_queue("bot"), [LANES]),
        (names.lease_queue("bot"), [LANES]),
        (names.reply_queue("bot", "here"), [REPLIES]),
        (names.DEAD_QUEUE, []),
        (names.UNANSWERED_QUEUE, []),
        (names.ACCOUNTING_QUEUE, []),
    ):
        assert [name for name, pattern in patterns.items() if re.search(pattern, queue)] == expected


async def test_an_automation_that_floods_with_large_messages_is_refused_while_another_is_served(
    world: World,
) -> None:
    flooding, other = await world.add_automation(), await world.add_automation()
    await world.add_key(other, "Primary")
    await world.mongo.automations.update_one({"_id": flooding}, {"$set": {"paused": True}})
    # The queues are there already.
    await bound_queues(world.admin, MAX_BYTES)
    await world.start_worker()
    async with world.client(flooding) as flood, world.client(other) as keyway:

        async def ask() -> None:
            await flood.generate("/moderations", input=LARGE, timeout=120)

        asking: list[asyncio.Task[None]] = []

        async def is_refused() -> bool:
            asking.append(asyncio.create_task(ask()))
            return any(task.done() for task in asking)

        await eventually(is_refused, "a refusal")
        result = await keyway.generate("/moderations", input=LARGE, timeout=120)
        assert result.status == "succeeded"
        done, waiting = await asyncio.wait(asking, timeout=0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert done
    for task in done:
        with pytest.raises(PublishError, match="is full; try again later"):
            await task
    # The bound is a soft one: what was under way comes on top.
    assert len(waiting) >= MAX_BYTES // len(LARGE) - 1


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_a_reply_queue_that_nobody_reads_holds_no_more_and_does_what_it_says_at_the_bound(
    world: World, kind: str
) -> None:
    await bound_queues(world.admin, MAX_BYTES)
    bot = await world.add_automation()
    refused: dict[str, int] = {}
    async with world.connection.channel(publisher_confirms=True) as channel:
        for overflow in ("drop-head", "reject-publish"):
            queue = names.reply_queue(bot, overflow)
            arguments: dict[str, Any] = {"x-queue-type": kind}
            if overflow != "drop-head":  # what RabbitMQ does by itself
                arguments["x-overflow"] = overflow
            declared = await channel.declare_queue(queue, durable=True, arguments=arguments)
            refused[overflow] = 0
            for _ in range(PUBLISHED):
                try:
                    await channel.default_exchange.publish(Message(LARGE.encode(), delivery_mode=2), queue)
                except DeliveryError:
                    refused[overflow] += 1
            held = (await declared.purge()).message_count or 0
            # The bound is a soft one: a message that goes beyond it may be taken.
            assert MAX_BYTES // len(LARGE) - 1 <= held <= MAX_BYTES // len(LARGE) + 2
    assert refused["drop-head"] == 0
    assert refused["reject-publish"] > 0

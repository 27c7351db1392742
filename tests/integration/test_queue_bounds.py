"""A bound in bytes: who floods the broker with large messages is refused, so that no disk fills.

All is on the real RabbitMQ: which of its queues a policy holds for, and what they do at the bound.
"""

import asyncio
import re
import secrets

import pytest
from aio_pika import Message
from aiormq.exceptions import DeliveryError

from contracts import names
from contracts.errors import PublishError
from infra.queue_bounds import PATTERN, POLICY, bound_queues, policy
from tests.harness import World, eventually

MAX_BYTES = 1_000_000
LARGE = "x" * 100_000


async def test_init_bounds_lanes_and_reply_queues(world: World) -> None:
    found = await world.admin.call("GET", f"policies/{{vhost}}/{POLICY}")
    assert {name: found[name] for name in policy(0)} == policy(world.settings.queue_max_bytes)
    for queue in (names.lane_queue("bot"), names.lease_queue("bot"), names.reply_queue("bot", "here")):
        assert re.search(PATTERN, queue)
    for queue in (names.DEAD_QUEUE, names.UNANSWERED_QUEUE, names.ACCOUNTING_QUEUE):
        assert not re.search(PATTERN, queue)


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
        result = await keyway.generate("/moderations", input=LARGE, timeout=60)
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
async def test_a_reply_queue_that_nobody_reads_refuses_and_drops_nothing(world: World, kind: str) -> None:
    await bound_queues(world.admin, MAX_BYTES)
    queue = names.reply_queue(await world.add_automation(), secrets.token_hex(4))
    async with world.connection.channel(publisher_confirms=True) as channel:
        declared = await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": kind})

        async def is_refused() -> bool:
            try:
                await channel.default_exchange.publish(Message(LARGE.encode(), delivery_mode=2), queue)
            except DeliveryError:
                return True
            published.append(1)
            return False

        published: list[int] = []
        await eventually(is_refused, "a refusal")
        assert len(published) >= MAX_BYTES // len(LARGE)
        assert (await declared.purge()).message_count == len(published)

        async def is_taken() -> bool:
            return not await is_refused()

        await eventually(is_taken, "room again")

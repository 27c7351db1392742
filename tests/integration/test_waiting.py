"""Waiting instead of refusing: in order, in the lane, until there is room, a deadline, or a change."""

import asyncio
import json
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aio_pika import Message

from contracts import GenerationResult, Keyway
from contracts.errors import DeadlineExceededError
from tests.collector import BODY, Collector
from tests.harness import World, eventually
from tests.integration.test_dead_letters import listed
from workers.generation import lanes
from workers.keys.key import Limits
from workers.keys.limits import SPAN_S


async def ask(keyway: Keyway, number: int, **options: Any) -> GenerationResult:
    messages = [{"role": "user", "content": f"request {number}"}]
    options.setdefault("timeout", 170)
    return await keyway.generate("/chat/completions", model="gpt-4o-mini", messages=messages, **options)


async def fill(world: World, bot: str) -> None:
    """Use up a key of one request a minute, so that whoever comes next waits."""
    await world.add_key(bot, "Primary", limits=Limits(requests_per_minute=1))
    async with world.client(bot) as keyway:
        await ask(keyway, 0)


async def is_paused(world: World, bot: str) -> bool:
    queue = await world.admin.call("GET", f"queues/{{vhost}}/requests.{bot}")
    return bool(queue.get("messages_ready", 0) >= 1 and queue.get("consumers") == 0)


async def test_a_lane_without_room_for_long_is_paused_and_its_requests_wait_in_the_queue(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", limits=Limits(requests_per_minute=5))
    async with shared.client(bot) as keyway:
        asking = [asyncio.create_task(ask(keyway, number)) for number in range(12)]

        async def waits_in_the_queue() -> bool:
            queue = await shared.admin.call("GET", f"queues/{{vhost}}/requests.{bot}")
            return (queue.get("messages_ready"), queue.get("messages_unacknowledged")) == (7, 0)

        await eventually(waits_in_the_queue, "7 requests back in the queue")
        assert sum(task.done() for task in asking) == 5

        # A second key makes room: the lane is resumed by the change, not when the minute is over.
        await shared.add_key(bot, "Backup")
        results = await asyncio.gather(*asking)
    assert [result.key_alias for result in results].count("Backup") == 7
    assert len(await shared.journal(bot)) == 12
    await shared.assert_books_equal_journal(bot)


async def test_a_request_that_can_not_be_served_before_its_deadline_fails_at_once_with_a_time(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", limits=Limits(requests_per_minute=1))
    async with shared.client(bot) as keyway:
        await ask(keyway, 1)
        deadline = datetime.now(UTC) + timedelta(seconds=30)
        with pytest.raises(DeadlineExceededError) as refused:
            await keyway.generate("/moderations", input="hello", timeout=30)
        assert datetime.now(UTC) < deadline, "it did not wait for its deadline"
    assert refused.value.retry_at is not None
    assert deadline < refused.value.retry_at < deadline + timedelta(seconds=SPAN_S)


def turns(world: World, bot: str) -> int:
    """How often a worker has taken requests from a bot's lane and found that there is no room."""
    return sum(
        event["event"] == "lane_paused" and event["automation_id"] == bot
        for service in world.services
        for event in service.events()
    )


async def test_ten_thousand_requests_without_room_cost_another_lane_no_turns(shared: World) -> None:
    stuck, free = await shared.add_automation(), await shared.add_automation()
    await shared.add_key(stuck, "Primary", limits=Limits(requests_per_minute=1))
    await shared.add_key(free, "Primary")
    async with shared.connection.channel() as channel, shared.client(free) as keyway:
        requests = await channel.get_exchange("requests", ensure=False)
        body = b'{"path": "/moderations", "body": {"input": "hello"}}'
        for number in range(10):
            await asyncio.gather(*(requests.publish(Message(body), stuck) for _ in range(1000)))
            await ask(keyway, number)

        async def wait_in_the_queue() -> bool:
            queue = await shared.admin.call("GET", f"queues/{{vhost}}/requests.{stuck}")
            return bool(queue.get("messages_ready", 0) >= 9990 and queue.get("consumers") == 0)

        await eventually(wait_in_the_queue, "the others in their queue")
        before, began = turns(shared, stuck), time.monotonic()
        for number in range(10, 110):
            await ask(keyway, number)
        # Between turns a lane without room costs nothing: nobody has its requests in hand.
        most = 10 + 4 * (time.monotonic() - began) / lanes.LONGEST_PAUSE_S
        assert turns(shared, stuck) - before < most
        await eventually(wait_in_the_queue, "the others still in their queue")
        await shared.admin.call("DELETE", f"queues/{{vhost}}/requests.{stuck}/contents")
    # One after the other, each at its turn: none waited for any of the 10,000.
    assert len(await shared.journal(free)) == 110


@pytest.mark.parametrize("is_missed", [False, True], ids=["by its event", "though its event is missed"])
async def test_a_change_resumes_a_paused_lane(world: World, is_missed: bool) -> None:
    # Without looking again by themselves, workers have the event alone; and without it that look.
    look_again_s = 1 if is_missed else 3600
    assert max(lanes.RELOAD_S, lanes.LONGEST_PAUSE_S) < 30
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    await world.start_accounting()
    constants = (f"{lanes.__name__}.{name}={look_again_s}" for name in ("RELOAD_S", "LONGEST_PAUSE_S"))
    await world.start_worker(constants=" ".join(constants))
    cooled = {"$set": {"cooled_until": datetime.now(UTC) + timedelta(hours=1)}}
    await world.mongo.keys.update_one({"automation_id": bot}, cooled)
    async with world.client(bot) as keyway:
        asking = asyncio.create_task(ask(keyway, 1, timeout=7200))
        await eventually(lambda: is_paused(world, bot), "the lane paused")
        if is_missed:
            await unbind_changes(world)
        await world.mongo.keys.update_one({"automation_id": bot}, {"$unset": {"cooled_until": ""}})
        await world.keys.change(bot, "Primary", limits={"requests_per_minute": None})
        assert (await asking).status == "succeeded"


async def unbind_changes(world: World) -> None:
    """Let no worker hear of changes."""
    for queue in await world.admin.queues():
        if queue["name"].startswith("reload."):
            await world.admin.call("DELETE", f"queues/{{vhost}}/{queue['name']}/contents")
            path = f"bindings/{{vhost}}/e/events/q/{queue['name']}"
            for binding in await world.admin.call("GET", path):
                await world.admin.call("DELETE", f"{path}/{binding['properties_key']}")


async def test_a_request_that_would_expire_before_there_is_room_fails_at_once(shared: World) -> None:
    bot = await shared.add_automation()
    await fill(shared, bot)
    async with Collector(shared, bot) as collector:
        expires = datetime.now(UTC) + timedelta(seconds=20)
        await collector.ask("no-time", expiration=20)
        answer = await collector.answer()
    assert datetime.now(UTC) < expires, "it did not wait until it would have expired"
    assert answer.error is not None
    assert answer.error.code == "deadline_exceeded"
    assert answer.error.retry_at is not None
    assert len(await shared.journal(bot)) == 1


async def test_a_request_that_expired_in_its_queue_is_answered_without_a_call(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    async with Collector(world, bot) as collector:
        await collector.ask("expired", expiration=0.2)

        async def is_dead() -> bool:
            queue = await world.admin.call("GET", "queues/{vhost}/dead.unanswered")
            return bool(queue.get("messages") == 1)

        await eventually(is_dead, "the request among the dead letters")
        await world.start_worker()
        answer = await collector.answer()
        assert answer.request_id == "expired"
        assert answer.error is not None
        assert (answer.error.code, answer.attempts) == ("deadline_exceeded", [])
        # It is an end like any other: asked again, it is repeated.
        await collector.ask("expired")
        again = await collector.answer()
    assert again.error == answer.error
    assert again.replayed
    assert await world.journal(bot) == []


async def test_a_request_whose_deadline_has_passed_is_answered_without_a_call_or_a_reservation(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    late = {**json.loads(BODY), "deadline": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
    async with Collector(shared, bot) as collector:
        await collector.ask("late", json.dumps(late).encode())
        answer = await collector.answer()
    assert answer.error is not None
    assert answer.error.code == "deadline_exceeded"
    assert await shared.journal(bot) == []
    assert (await shared.key(bot, "Primary")).get("window", []) == []


async def test_a_request_that_its_workers_die_of_is_answered_and_dead_lettered(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", {"hang_rate": 1.0})
    async with Collector(world, bot) as collector:
        await collector.ask("deadly")
        for _ in range(2):
            worker = await world.start_worker(KEYWAY_CRASH_LIMIT="2")

            async def is_under_way() -> bool:
                return await world.simulator.in_flight() == 1

            await eventually(is_under_way, "the call under way")
            await worker.stop(signal.SIGKILL)
            await world.silence_workers()
        await world.start_worker(KEYWAY_CRASH_LIMIT="2")
        answer = await collector.answer()
    assert answer.error is not None
    assert (answer.error.code, answer.error.message) == ("internal", "2 workers died of this request")
    # It is written beside the answer, so it may come after it.
    (letter,) = await listed(world, bot, 1)
    assert letter["request_id"] == "deadly"

"""`keyway usage rebuild`: totals are what the ledger says, and are made so where they are not."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from aio_pika import Message

from contracts import names
from tests.builders import usage_recorded
from tests.collector import Collector
from tests.harness import World
from workers.accounting.rebuild import CORRECTIONS, Rebuild

TODAY = datetime.now(UTC)


@pytest.fixture
async def bot(shared: World) -> str:
    """An automation with three accounted calls."""
    name = await shared.add_automation()
    await shared.add_key(name, "Primary")
    async with Collector(shared, name) as collector:
        for number in range(3):
            await collector.ask(f"r-{number}")
        await collector.have(3)
    await shared.accounted(name, 3)
    return name


async def rebuild(world: World, bot: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    status, stdout, stderr = await world.cli("usage", "rebuild", "--automation", bot, "--json", *arguments)
    assert stdout, stderr
    return status, json.loads(stdout)


async def totals(world: World, bot: str) -> list[dict[str, Any]]:
    found = world.mongo.usage_daily.find({"automation_id": bot}, {CORRECTIONS: 0})
    return [total async for total in found.sort("_id", 1)]


async def test_the_totals_of_calls_are_what_the_ledger_says(shared: World, bot: str) -> None:
    status, stdout, stderr = await shared.cli("usage", "rebuild", "--automation", bot)
    assert status == 0, stderr
    assert stdout == ""
    assert "3 totals compared, none differs." in stderr


async def test_a_spoiled_total_is_found_and_put_right(shared: World, bot: str) -> None:
    right = await totals(shared, bot)
    spoiled = {"automation_id": bot, "dimension": "key"}
    await shared.mongo.usage_daily.update_one(spoiled, {"$inc": {"attempts": 2, "cost_nanousd": -1}})
    status, stdout, _ = await shared.cli("usage", "rebuild", "--automation", bot, "--dry-run", COLUMNS="200")
    assert status == 1
    assert "cost_nanousd" in stdout
    assert await totals(shared, bot) != right
    status, said = await rebuild(shared, bot)
    assert status == 0
    assert (said["compared"], said["repaired"]) == (3, 1)
    assert {(d["field"], d["found"]) for d in said["differences"]} >= {("attempts", 5)}
    assert await totals(shared, bot) == right
    assert await rebuild(shared, bot, "--dry-run") == (0, {"compared": 3, "differences": [], "repaired": 0})


async def test_a_missing_total_is_made_and_one_without_rows_is_deleted(shared: World, bot: str) -> None:
    right = await totals(shared, bot)
    model = next(total for total in right if total["dimension"] == "model")
    stale = {**model, "_id": f"{model['_id']}-stale", "subject": f"{model['subject']}-stale"}
    await shared.mongo.usage_daily.delete_one({"_id": model["_id"]})
    await shared.mongo.usage_daily.insert_one(stale)
    spoiled = await totals(shared, bot)
    status, said = await rebuild(shared, bot, "--dry-run")
    assert status == 1
    assert (said["compared"], said["repaired"]) == (4, 0)
    assert [(d["subject"], d["found"], d["expected"]) for d in said["differences"]] == [
        (model["subject"], None, 3),
        (stale["subject"], 3, None),
    ]
    assert await totals(shared, bot) == spoiled
    _, stdout, stderr = await shared.cli("usage", "rebuild", "--automation", bot, "--day", model["day"])
    assert "(no total)" in stdout
    assert "4 totals compared, 2 differed, and are right now." in stderr
    assert await totals(shared, bot) == right


async def test_it_is_right_while_accounting_runs(shared: World) -> None:
    bot = await shared.add_automation()
    total = {"automation_id": bot, "dimension": "automation"}
    async with shared.connection.channel() as channel:
        events = await channel.get_exchange(names.EVENTS_EXCHANGE, ensure=False)

        async def publish(number: int) -> None:
            event = usage_recorded(
                automation_id=bot, event_id=f"r-{number}:1", request_id=f"r-{number}", occurred_at=TODAY
            )
            message = Message(event.model_dump_json().encode(), type=names.USAGE_RECORDED, delivery_mode=2)
            await events.publish(message, names.event_routing_key(names.USAGE_RECORDED, bot))

        published = 0
        done = asyncio.Event()

        async def publish_on() -> None:
            nonlocal published
            while not done.is_set():
                await publish(published)
                published += 1

        async with asyncio.TaskGroup() as publishing:
            publishing.create_task(publish_on())
            await shared.accounted(bot, 1)
            status, said = await rebuild(shared, bot, "--dry-run")
            assert (status, said["differences"]) == (0, [])
            await shared.mongo.usage_daily.update_one(total, {"$inc": {"total_tokens": 1}})
            status, said = await rebuild(shared, bot)
            assert (status, said["repaired"]) == (0, 1)
            done.set()
    await shared.accounted(bot, published)
    assert (await rebuild(shared, bot, "--dry-run"))[0] == 0
    await shared.assert_totals_equal_ledger(bot, "automation")


async def test_two_at_once_correct_a_total_once(shared: World, bot: str) -> None:
    right = await totals(shared, bot)
    await shared.mongo.usage_daily.update_one({"_id": right[0]["_id"]}, {"$inc": {"attempts": 1}})
    await shared.mongo.usage_daily.delete_one({"_id": right[1]["_id"]})
    books = Rebuild(shared.mongo, automation_id=bot)
    comparisons = [await books.check(right[0]["day"], bot) for _ in range(2)]
    assert len(comparisons[0].differences) == 2
    for comparison in comparisons:
        await books.mend(comparison)
    assert await totals(shared, bot) == right


async def test_what_is_booked_after_the_comparison_stays(shared: World, bot: str) -> None:
    right = await totals(shared, bot)
    day = right[0]["day"]
    await shared.mongo.usage_daily.update_one({"_id": right[0]["_id"]}, {"$inc": {"attempts": 1}})
    books = Rebuild(shared.mongo, automation_id=bot)
    comparison = await books.check(day, bot)
    async with Collector(shared, bot) as collector:
        await collector.ask("later")
        await collector.have(1)
    await shared.accounted(bot, 4)
    await books.mend(comparison)
    assert (await books.check(day, bot)).differences == []
    assert [total["attempts"] for total in await totals(shared, bot)] == [4] * len(right)


async def test_another_day_is_left_alone(shared: World, bot: str) -> None:
    await shared.mongo.usage_daily.update_one({"automation_id": bot}, {"$inc": {"attempts": 1}})
    status, said = await rebuild(shared, bot, "--day", "2001-01-01", "--dry-run")
    assert (status, said) == (0, {"compared": 0, "differences": [], "repaired": 0})
    status, _, stderr = await shared.cli("usage", "rebuild", "--day", "yesterday")
    assert status == 2
    assert "expected YYYY-MM-DD" in stderr


async def test_the_usage_of_a_day_is_printed_as_before(shared: World, bot: str) -> None:
    status, stdout, stderr = await shared.cli("usage", "--by", "model", "--automation", bot, "--json")
    assert status == 0, stderr
    (total,) = json.loads(stdout)
    assert (total["by"], total["attempts"]) == ("model", 3)
    status, _, stderr = await shared.cli("usage", "--by", "model", "rebuild")
    assert status == 2
    assert "stand behind it" in stderr

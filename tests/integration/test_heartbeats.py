"""Who is alive: an automation's processes, by their heartbeats."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from aio_pika import Message, connect

from tests.harness import World, eventually

STARTED = "2026-03-10T12:00:00Z"


async def beat(world: World, bot: str, *heartbeats: dict[str, Any] | bytes) -> None:
    """Send heartbeats as the automation itself."""
    async with await connect(world.url_of(bot)) as connection:
        events = await (await connection.channel()).get_exchange("events", ensure=False)
        for heartbeat in heartbeats:
            body = heartbeat if isinstance(heartbeat, bytes) else json.dumps(heartbeat).encode()
            await events.publish(Message(body, type="heartbeat.v1"), f"heartbeat.{bot}")


async def listed(world: World, bot: str) -> dict[str, Any]:
    status, stdout, _ = await world.cli("automations", "list", "--json")
    assert status == 0
    (found,) = (one for one in json.loads(stdout) if one["automation_id"] == bot)
    return dict(found)


async def alive_column(world: World, bot: str) -> str:
    _, stdout, _ = await world.cli("automations", "list", COLUMNS="200")
    (line,) = (line for line in stdout.splitlines() if line.startswith(bot))
    return " ".join(line.split()[4:])


async def known(world: World, bot: str, processes: int, **said: Any) -> None:
    async def there() -> bool:
        return await world.mongo.heartbeats.count_documents({"automation_id": bot, **said}) >= processes

    await eventually(there, f"{processes} processes of {bot}")


def heartbeat(host: str, *, in_flight: int = 0, version: str = "1.2.0") -> dict[str, Any]:
    return {"version": version, "host": host, "started_at": STARTED, "in_flight": in_flight}


async def test_the_list_shows_every_process_that_is_alive(shared: World) -> None:
    bot, silent = await shared.add_automation(), await shared.add_automation()
    newer = {**heartbeat("b", in_flight=2, version="1.3.0"), "started_at": "2026-03-10T13:30:00+01:00"}
    await beat(shared, bot, heartbeat("a", in_flight=1), newer, heartbeat("a", in_flight=3))
    await known(shared, bot, 2, in_flight={"$in": [2, 3]})
    found = await listed(shared, bot)
    for process in found["processes"]:
        assert process.pop("last_heartbeat_at") <= found["last_heartbeat_at"]
    assert found["processes"] == [
        {"host": "a", "version": "1.2.0", "started_at": STARTED, "in_flight": 3},
        {"host": "b", "version": "1.3.0", "started_at": "2026-03-10T12:30:00Z", "in_flight": 2},
    ]
    expected = "2 processes since 2026-03-10 12:00:00, version 1.2.0, 1.3.0, 5 in flight"
    assert await alive_column(shared, bot) == expected
    assert (await listed(shared, silent))["processes"] == []
    assert await alive_column(shared, silent) == "never"


async def test_a_process_that_is_silent_for_90_s_is_not_alive(shared: World) -> None:
    bot = await shared.add_automation()
    await beat(shared, bot, heartbeat("a"), heartbeat("b"))
    await known(shared, bot, 2)
    now = await shared.mongo.server_time()
    for host, ago_s in (("a", 91), ("b", 40)):
        at = {"at": now - timedelta(seconds=ago_s)}
        await shared.mongo.heartbeats.update_one({"automation_id": bot, "host": host}, {"$set": at})
    assert [process["host"] for process in (await listed(shared, bot))["processes"]] == ["b"]
    await shared.mongo.heartbeats.delete_many({"automation_id": bot})
    seen = datetime(2026, 3, 10, 12, tzinfo=UTC)
    await shared.mongo.automations.update_one({"_id": bot}, {"$set": {"last_heartbeat_at": seen}})
    assert await alive_column(shared, bot) == "last seen 2026-03-10 12:00:00"


async def test_odd_heartbeats_stop_neither_others_nor_the_books(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    odd: list[dict[str, Any] | bytes] = [
        {**heartbeat("$host"), "version": "$$NOW"},
        {**heartbeat("early"), "started_at": "0001-01-01T00:00:00+14:00"},
        {**heartbeat("late"), "started_at": "9999-12-31T23:59:59-14:00"},
        heartbeat("busy", in_flight=2**70),
        heartbeat("\x00" * 5000),
        b"not json",
        {"host": "incomplete"},
    ]
    await beat(shared, bot, *odd, heartbeat("good"))
    await known(shared, bot, 2)
    hosts = {process["host"] for process in (await listed(shared, bot))["processes"]}
    assert hosts == {"$host", "good"}
    async with shared.client(bot) as keyway:
        await keyway.generate("/moderations", input="hello")
    await shared.accounted(bot, 1)


async def test_many_heartbeats_of_one_process_are_one_document_and_the_books_go_on(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    await beat(shared, bot, *(heartbeat("a", in_flight=number) for number in range(500)))
    async with shared.client(bot) as keyway:
        await keyway.generate("/moderations", input="hello")
    await shared.accounted(bot, 1)

    async def last() -> bool:
        return await shared.mongo.heartbeats.find_one({"automation_id": bot, "in_flight": 499}) is not None

    await eventually(last, "the last heartbeat")
    assert await shared.mongo.heartbeats.count_documents({"automation_id": bot, "host": "a"}) == 1

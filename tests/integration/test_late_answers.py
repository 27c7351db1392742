"""MongoDB's answers come late: a reservation that is old when it arrives is not used."""

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.chaos.proxy import proxy_to
from tests.collector import Collector
from tests.harness import World, eventually
from tests.integration.test_limits import most_in_a_window
from workers.keys.key import Limits
from workers.keys.limits import SPAN_S

LIMIT = 5
LATE_S = 5.0


@pytest.mark.waits
async def test_no_rolling_minute_has_too_many_calls_though_a_reservations_answer_is_seconds_late(
    world: World,
) -> None:
    bot = await world.add_automation()
    key_id = await world.add_key(bot, "Primary", limits=Limits(requests_per_minute=LIMIT))
    url = urlsplit(world.settings.mongo_url.get_secret_value())
    assert url.port is not None

    async def counted() -> list[int]:
        """The seconds in which calls count."""
        key = await world.mongo.keys.find_one({"_id": key_id})
        assert key is not None
        return [entry["s"] for entry in key.get("window", []) for _ in range(entry["n"])]

    async def are_reserved() -> bool:
        return len(await counted()) == LIMIT

    async with proxy_to(url.port) as proxy, Collector(world, bot) as collector:
        slow = await world.start_worker(
            KEYWAY_MONGO_URL=f"mongodb://{url.hostname}:{proxy.port}/?directConnection=true"
        )
        await collector.ask("warm")
        await collector.have(1)
        proxy.answers_take_s = LATE_S
        await asyncio.gather(*(collector.ask(f"late-{number}") for number in range(1, LIMIT)))
        await eventually(are_reserved, "a reservation whose answer is on its way")
        proxy.answers_take_s = 0.0
        await collector.have(LIMIT)
        assert await slow.stop() == 0
        await world.start_worker()
        # A minute passes: what counts so far is moved back, until there is room for one call less than all.
        seconds = await counted()
        assert len(seconds) == LIMIT
        (answer,) = [document async for document in world.mongo.keys.aggregate([{"$set": {"at": "$$NOW"}}])]
        passed_s = SPAN_S - (int(answer["at"].timestamp()) - seconds[1])
        earlier = {"$mergeObjects": ["$$this", {"s": {"$subtract": ["$$this.s", passed_s]}}]}
        moved = {"$set": {"window": {"$map": {"input": "$window", "in": earlier}}}}
        before = [call["at"] - passed_s for call in await world.journal(bot)]
        await world.mongo.keys.update_one({"_id": key_id}, [moved])
        await asyncio.gather(*(collector.ask(f"next-{number}") for number in range(LIMIT)))
        await collector.have(2 * LIMIT)
    assert {answer.status for answer in collector.answers} == {"succeeded"}
    after = [call["at"] for call in (await world.journal(bot))[LIMIT:]]
    assert len(after) == LIMIT
    assert most_in_a_window([*before, *after]) <= LIMIT

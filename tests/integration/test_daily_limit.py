"""Tokens of the day: spent, handed over to the next key, refused with a time, and new after midnight."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts import GenerationResult, Keyway
from contracts.errors import KeysExhaustedError
from infra.totals import total_id
from tests.harness import World, eventually
from workers.keys.key import Limits

DAILY = Limits(tokens_per_day=1000)


async def ask(keyway: Keyway) -> GenerationResult:
    body: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 20}]}
    return await keyway.generate("/chat/completions", **body, max_tokens=100, timeout=120)


async def exhausted(world: World, bot: str, alias: str) -> bool:
    status: str = (await world.key(bot, alias))["status"]
    return status == "exhausted"


async def move_books(world: World, bot: str, day: str) -> None:
    """Let what is booked have been booked on another day."""
    await world.mongo.usage.update_many({"automation_id": bot}, {"$set": {"day": day}})
    async for total in world.mongo.usage_daily.find({"automation_id": bot}):
        await world.mongo.usage_daily.delete_one({"_id": total["_id"]})
        moved = total_id(total["dimension"], day, bot, total["subject"])
        await world.mongo.usage_daily.insert_one({**total, "_id": moved, "day": day})


async def test_a_key_at_its_daily_limit_is_exhausted_until_midnight_and_the_next_takes_over(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"completion_tokens": 100}, limits=DAILY)
    async with shared.client(bot) as keyway:
        for _ in range(9):
            assert (await ask(keyway)).key_alias == "Primary"

        async def primary_is_exhausted() -> bool:
            return await exhausted(shared, bot, "Primary")

        await eventually(primary_is_exhausted, "Primary exhausted")
        key = await shared.key(bot, "Primary")
        midnight = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        assert key["status_until"] == midnight
        assert "of 1000 daily tokens" in key["status_reason"]
        assert key["day_tokens"] <= 1000

        await shared.add_key(bot, "Secondary", {"completion_tokens": 100}, limits=DAILY)
        assert (await ask(keyway)).key_alias == "Secondary"
        for _ in range(8):
            await ask(keyway)
        with pytest.raises(KeysExhaustedError) as refused:
            await ask(keyway)
        assert refused.value.retryable
        assert refused.value.retry_at == midnight
        await shared.assert_books_equal_journal(bot)

        # What midnight changes is only how the stored times compare with the clock: so a day passes when
        # the stored times are a day older.
        day = timedelta(days=1)
        yesterday = (datetime.now(UTC) - day).date().isoformat()
        for alias in ("Primary", "Secondary"):
            await shared.mongo.keys.update_one(
                {"automation_id": bot, "alias": alias},
                [
                    {
                        "$set": {
                            "day": yesterday,
                            "status_until": {
                                "$subtract": ["$status_until", day // timedelta(milliseconds=1)]
                            },
                        }
                    }
                ],
            )

        await move_books(shared, bot, yesterday)

        async def active_again() -> bool:
            keys = [await shared.key(bot, alias) for alias in ("Primary", "Secondary")]
            return all(key["status"] == "active" for key in keys)

        await eventually(active_again, "both keys active after midnight")
        assert (await ask(keyway)).status == "succeeded"
        assert [entry["to"] for entry in (await shared.key(bot, "Primary"))["history"]] == [
            "exhausted",
            "active",
        ]


async def test_quota_that_the_provider_says_is_spent_is_not_taken_for_a_rate_limit(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"quota_exhausted": True})
    async with shared.client(bot) as keyway:
        with pytest.raises(KeysExhaustedError) as refused:
            await ask(keyway)
    assert [attempt.outcome for attempt in refused.value.result.attempts] == ["quota_exhausted"]

    async def primary_is_exhausted() -> bool:
        return await exhausted(shared, bot, "Primary")

    await eventually(primary_is_exhausted, "Primary exhausted")
    assert "quota" in (await shared.key(bot, "Primary"))["status_reason"]

"""One key fails, the next serves, and the books say what happened."""

import asyncio
from typing import Any

import pytest

from contracts import GenerationResult, Keyway
from contracts.errors import NoKeysError, NoUsableKeyError, ProviderRejectedError, ProviderUnavailableError
from tests.harness import World, eventually


async def ask(keyway: Keyway, model: str = "gpt-4o-mini", **options: Any) -> GenerationResult:
    messages = [{"role": "user", "content": "hello"}]
    return await keyway.generate("/chat/completions", model=model, messages=messages, **options)


async def test_an_invalid_and_a_rate_limited_key_cost_a_request_two_more_attempts(shared: World) -> None:
    bot = await shared.add_automation()
    # By their tiers the order of the attempts is known, even where a reservation is too old and made anew.
    scripts: dict[str, dict[str, Any]] = {
        "Backup": {},
        "Secondary": {"rate_limited_for_ms": 1500},
        "Primary": {"invalid": True},
    }
    for number, (alias, script) in enumerate(scripts.items()):
        await shared.add_key(bot, alias, script)
        tier = {"$set": {"tier": 2 - number}}
        await shared.mongo.keys.update_one({"automation_id": bot, "alias": alias}, tier)
    async with shared.client(bot) as keyway:
        result = await ask(keyway, user="u-42")
        assert [(a.key_alias, a.outcome, a.http_status) for a in result.attempts] == [
            ("Primary", "auth_failed", 401),
            ("Secondary", "rate_limited", 429),
            ("Backup", "ok", 200),
        ]
        assert result.status == "succeeded"

        rows = await shared.accounted(bot, 3)
        assert sorted(row["event_id"] for row in rows) == [f"{result.request_id}:{n}" for n in (1, 2, 3)]
        assert {row["user_id"] for row in rows} == {"u-42"}
        await shared.assert_books_equal_journal(bot)

        async def primary_is_in_error() -> bool:
            status: str = (await shared.key(bot, "Primary"))["status"]
            return status == "error"

        await eventually(primary_is_in_error, "Primary in error")
        primary = await shared.key(bot, "Primary")
        assert primary["status_reason"] == "the provider refuses the key: 401 invalid_api_key"
        assert primary["history"][-1]["actor"] == "accounting"
        assert (await shared.key(bot, "Secondary"))["status"] == "active"

        async def secondary_serves() -> bool:
            return (await ask(keyway)).key_alias == "Secondary"

        await eventually(secondary_serves, "Secondary used again after its cooldown", every_s=0.2)


async def test_an_automation_without_keys_is_told_so(shared: World) -> None:
    bot = await shared.add_automation()
    async with shared.client(bot) as keyway:
        with pytest.raises(NoKeysError, match="keyway keys add"):
            await ask(keyway)


async def test_when_every_key_is_refused_the_request_fails_at_once(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"invalid": True})
    await shared.add_key(bot, "Backup", {"deactivated": True})
    async with shared.client(bot) as keyway:
        with pytest.raises(NoUsableKeyError) as failed:
            await ask(keyway)
    assert [a.outcome for a in failed.value.result.attempts] == ["auth_failed", "auth_failed"]
    assert len(await shared.journal(bot)) == 2


async def test_a_callers_own_mistake_is_final_and_blames_no_key(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with shared.client(bot) as keyway:
        with pytest.raises(ProviderRejectedError) as failed:
            await keyway.generate("/chat/completions", model="gpt-4o-mini")
    assert failed.value.result.error is not None
    assert failed.value.result.error.provider is not None
    assert len(await shared.journal(bot)) == 1
    key = await shared.key(bot, "Primary")
    assert key["status"] == "active"
    assert key.get("health", {}).get("failures", 0) == 0


async def test_a_model_that_one_key_may_not_use_is_served_by_another(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"denied_models": ["gpt-4o"]})
    await shared.add_key(bot, "Backup")
    async with shared.client(bot) as keyway:
        large = [await ask(keyway, "gpt-4o") for _ in range(6)]
        small = [await ask(keyway) for _ in range(6)]
    assert {result.key_alias for result in large} == {"Backup"}
    assert "Primary" in {result.key_alias for result in small}
    refusals = [call for call in await shared.journal(bot) if call["outcome"] == "model_not_found"]
    # Two workers: each finds out by itself what the other has not written yet.
    assert len(refusals) <= 2


async def test_a_model_that_no_key_may_use_is_rejected_with_the_providers_words(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"denied_models": ["gpt-4o"]})
    await shared.add_key(bot, "Backup", {"denied_models": ["gpt-4o"]})
    async with shared.client(bot) as keyway:
        with pytest.raises(ProviderRejectedError, match="gpt-4o"):
            await ask(keyway, "gpt-4o")


@pytest.mark.parametrize("fault", ["error_rate", "broken_json_rate", "drop_rate"])
async def test_a_failing_provider_is_tried_again_with_another_key(shared: World, fault: str) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {fault: 1.0})
    await shared.add_key(bot, "Backup")
    async with shared.client(bot) as keyway:
        results = await asyncio.gather(*(ask(keyway) for _ in range(10)))
    assert {result.key_alias for result in results} == {"Backup"}
    attempts = sum(len(result.attempts) for result in results)
    assert attempts > len(results)
    assert len(await shared.accounted(bot, attempts)) == attempts == len(await shared.journal(bot))


async def test_a_provider_that_is_down_is_said_to_be_after_a_few_tries(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"error_rate": 1.0})
    async with shared.client(bot) as keyway:
        with pytest.raises(ProviderUnavailableError) as failed:
            await ask(keyway, timeout=34)  # the second probe is over long before, the third lies beyond it
    assert failed.value.retryable
    assert 2 <= len(failed.value.result.attempts) <= 6

"""A provider that counts what can't be true harms nobody, and the books say so."""

import asyncio

import pytest

from contracts import Keyway
from contracts.messages import GenerationResult
from tests.harness import World, eventually

MESSAGES = [{"role": "user", "content": "hello"}]


async def ask(keyway: Keyway) -> GenerationResult:
    return await keyway.generate("/chat/completions", model="gpt-4o-mini", messages=MESSAGES)


@pytest.mark.parametrize("tokens", [2**63, 2**63 - 1, 10**9 + 1])
async def test_untrue_counts_are_estimated_and_marked_and_every_other_call_is_booked_and_given_back(
    shared: World, tokens: int
) -> None:
    liar, honest = [await shared.add_automation() for _ in range(2)]
    await shared.add_key(liar, "Primary", {"completion_tokens": tokens})
    await shared.add_key(honest, "Primary")
    async with shared.client(liar) as lying, shared.client(honest) as telling:
        results = await asyncio.gather(*(ask(lying if n % 5 == 0 else telling) for n in range(40)))
    lies, truths = results[::5], [result for n, result in enumerate(results) if n % 5]
    assert {result.usage_problem for result in truths} == {None}
    for result in lies:
        assert result.usage_problem is not None
        assert "completion_tokens" in result.usage_problem
        assert 0 < result.usage.total_tokens < 10_000
    rows = await shared.accounted(liar, len(lies))
    assert {(row["tokens_estimated"], row["usage_problem"]) for row in rows} == {
        (True, lies[0].usage_problem)
    }
    assert len(await shared.accounted(honest, len(truths))) == len(truths)
    await shared.assert_books_equal_journal(honest)

    async def nothing_is_held() -> bool:
        keys = shared.mongo.keys.find({"automation_id": {"$in": [liar, honest]}})
        return not [hold async for key in keys for hold in key.get("held", ())]

    await eventually(nothing_is_held, "every reservation to be given back")

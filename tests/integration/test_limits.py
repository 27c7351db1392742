"""Limits hold across all workers, judged by what the provider saw."""

import asyncio
from collections import Counter
from itertools import accumulate
from typing import Any

import pytest

from contracts import GenerationResult, Keyway
from contracts.errors import DeadlineExceededError
from tests.harness import World, eventually
from workers.keys.key import Limits

WINDOW_S = 60.0


def most_in_a_window(moments: list[float], weights: list[int] | None = None) -> int:
    """The most that any rolling 60 s saw."""
    weights = weights or [1] * len(moments)
    events = sorted(zip(moments, weights, strict=True))
    most = total = first = 0
    for moment, weight in events:
        total += weight
        while events[first][0] <= moment - WINDOW_S:
            total -= events[first][1]
            first += 1
        most = max(most, total)
    return most


async def ask(keyway: Keyway, number: int, **body: Any) -> GenerationResult:
    messages = [{"role": "user", "content": f"request {number}"}]
    return await keyway.generate(
        "/chat/completions", model="gpt-4o-mini", messages=messages, timeout=170, **body
    )


#: For calls that a busy machine has on their way for longer than `limits.GUARD_S`: 5 s more.
LATE = "workers.keys.limits.SPAN_S=68 workers.keys.expressions.SPAN_S=68"


@pytest.mark.waits
async def test_requests_per_minute_hold_over_four_workers_whose_clocks_differ_and_the_rate_is_used(
    world: World,
) -> None:
    bot = await world.add_automation()
    rpm = 60
    for alias in ("Primary", "Secondary", "Backup"):
        limits = Limits(requests_per_minute=rpm)
        await world.add_key(bot, alias, {"requests_per_minute": rpm}, limits=limits)
    workers = (
        world.start_worker(clock_offset_s=offset_s, constants=LATE, KEYWAY_LANE_PREFETCH="8")
        for offset_s in (0, 300, -300, 0)
    )
    await asyncio.gather(*workers)
    async with world.client(bot) as keyway:
        order: list[int] = []

        async def one(number: int) -> None:
            assert (await ask(keyway, number)).status == "succeeded"
            order.append(number)

        await asyncio.gather(*(one(number) for number in range(300)))
    calls = await world.journal(bot)
    assert Counter(call["http_status"] for call in calls) == {200: 300}
    for alias in ("Primary", "Secondary", "Backup"):
        moments = [call["at"] for call in calls if call["key"] == f"{bot}-{alias}"]
        assert most_in_a_window(moments) <= rpm
    # The rate is used: as many as may in the first minute, and the others in the second.
    began = min(call["at"] for call in calls)
    assert sum(call["at"] < began + WINDOW_S for call in calls) == 3 * rpm
    assert max(call["at"] for call in calls) < began + 2 * WINDOW_S
    # Who came first is served first, but for what four workers have in hand.
    overtaken = sum(number < 3 * rpm for number in order[3 * rpm :])
    assert overtaken <= 32


#: For how long after its end a call may count with what was reserved, since its settlement is on its way.
SETTLED_S = 2.0


def overshoot(calls: list[dict[str, Any]], reserved: dict[str, int]) -> int:
    """The most that calls in flight together used beyond what was reserved for them."""
    changes: list[tuple[float, int]] = []
    for call in calls:
        beyond = max(0, call["total_tokens"] - reserved[call["client_request_id"]])
        changes += [(call["at"], beyond), (call["ended_at"] + SETTLED_S, -beyond)]
    return max(accumulate(change for _, change in sorted(changes)))


@pytest.mark.waits
async def test_tokens_per_minute_hold_within_the_error_of_what_was_in_flight(world: World) -> None:
    bot = await world.add_automation()
    tpm = 6000
    for alias in ("Primary", "Secondary", "Backup"):
        script = {"completion_tokens": {"min": 20, "max": 800}, "latency_ms": 300}
        await world.add_key(bot, alias, script, limits=Limits(tokens_per_minute=tpm))
    await world.start_accounting()
    await asyncio.gather(*(world.start_worker() for _ in range(4)))
    async with world.client(bot) as keyway:
        results = await asyncio.gather(*(ask(keyway, number) for number in range(70)))
    assert {result.status for result in results} == {"succeeded"}
    calls = await world.journal(bot)
    assert len(calls) == 70
    reserved = {row["request_id"]: row["reserved_tokens"] for row in await world.accounted(bot, 70)}
    for alias in ("Primary", "Secondary", "Backup"):
        mine = [call for call in calls if call["key"] == f"{bot}-{alias}"]
        most = most_in_a_window([call["at"] for call in mine], [call["total_tokens"] for call in mine])
        assert most <= tpm + overshoot(mine, reserved)
    # The rate is used: what came before the first minute was over nearly fills three windows.
    began = min(call["at"] for call in calls)
    first = sum(call["total_tokens"] for call in calls if call["at"] < began + WINDOW_S)
    assert first > 0.75 * 3 * tpm
    await world.assert_books_equal_journal(bot)


async def test_what_somebody_else_uses_of_a_key_is_left_to_them(shared: World) -> None:
    bot = await shared.add_automation()
    rpm = Limits(requests_per_minute=60)
    await shared.add_key(bot, "Primary", {"requests_per_minute": 60}, limits=rpm)
    elsewhere = {"Authorization": f"Bearer {shared.api_keys[-1]}"}
    body: dict[str, Any] = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "from elsewhere"}],
    }
    for _ in range(30):
        url = f"{shared.simulator.base_url}/chat/completions"
        async with shared.simulator.session.post(url, json=body, headers=elsewhere) as response:
            assert response.status == 200
    async with shared.client(bot) as keyway:
        for number in range(28):
            assert (await ask(keyway, number)).status == "succeeded"
        # The pool alone would have room for 32 more; the provider has it for 2.
        asking = [keyway.generate("/chat/completions", **body, timeout=4) for _ in range(12)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
    late = [answer for answer in answers if isinstance(answer, DeadlineExceededError)]
    assert len(late) >= 8
    calls = await shared.journal(bot)
    assert sum(call["http_status"] == 429 for call in calls) <= len(calls) / 20


async def test_an_automations_own_cap_on_calls_in_flight_holds_over_workers_and_keys(shared: World) -> None:
    # It is raised: a worker that stands still and hears of it late stays below it.
    bot = await shared.add_automation(max_in_flight=2)
    for alias in ("Primary", "Secondary"):
        await shared.add_key(bot, alias, {"latency_ms": 150})
    status, _, stderr = await shared.cli("automations", "set", bot, "--max-in-flight", "3")
    assert status == 0, stderr

    async def is_heard_of() -> bool:
        return (await shared.mongo.outbox.count_documents({})) == 0

    await eventually(is_heard_of, "the change on its way")
    async with shared.client(bot) as keyway:
        await ask(keyway, 0)
        results = await asyncio.gather(*(ask(keyway, number) for number in range(1, 41)))
    assert {result.status for result in results} == {"succeeded"}
    changes = []
    for call in await shared.journal(bot):
        changes += [(call["at"], 1), (call["ended_at"], -1)]
    assert max(accumulate(change for _, change in sorted(changes))) == 3


@pytest.mark.waits
async def test_a_key_whose_provider_allows_less_than_configured_settles_to_what_is_allowed(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    configured = Limits(requests_per_minute=600)
    await shared.add_key(bot, "Primary", {"requests_per_minute": 60}, limits=configured)
    async with shared.client(bot) as keyway:
        results = await asyncio.gather(*(ask(keyway, number) for number in range(110)))
    assert {result.status for result in results} == {"succeeded"}
    calls = await shared.journal(bot)
    rejected = [call["at"] for call in calls if call["http_status"] == 429]
    settled_at = min(call["at"] for call in calls) + 10
    late = [call for call in calls if call["at"] > settled_at]
    assert len(rejected) <= 20
    assert len(late) >= 40
    assert sum(call["http_status"] == 429 for call in late) <= len(late) / 20
    status, stdout, _ = await shared.cli("keys", "list", bot)
    assert status == 0
    assert "warning: the provider allows 60 requests a minute for gpt-4o-mini" in " ".join(stdout.split())
    await shared.assert_books_equal_journal(bot)

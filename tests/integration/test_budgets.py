"""Budgets: spent, they stop calls and say so; many at once don't pass them; thresholds are told of once."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aio_pika import Message

from contracts import GenerationResult, Keyway, names
from contracts.errors import BudgetExceededError
from infra.money import nanousd
from tests.builders import usage_recorded
from tests.harness import ACTOR, World, eventually
from tests.lessee import add_bot, signed_in
from workers.budgets.budget import next_period_at
from workers.budgets.registry import BudgetRegistry, Subject

MODEL = "gpt-4o-mini"
#: What one call of `ask` costs about: 100 output tokens of 600 nano-USD, and a few of input.
A_CALL = 62_000


async def ask(keyway: Keyway, user: str | None = None) -> GenerationResult:
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 20}]}
    return await keyway.generate("/chat/completions", **body, max_tokens=100, timeout=120, user=user)


async def ask_until_refused(
    keyway: Keyway, user: str | None = None, *, times: int = 9
) -> tuple[int, BudgetExceededError]:
    """How many requests were served, and how the next one was refused."""
    for served in range(times):
        try:
            await ask(keyway, user)
        except BudgetExceededError as refused:
            return served, refused
    raise AssertionError(f"{times} requests were served")


def budgets(world: World) -> BudgetRegistry:
    return BudgetRegistry(world.mongo, ACTOR)


async def spent(world: World, bot: str) -> int:
    return sum(row["cost_nanousd"] for row in await world.ledger(bot))


async def alerts(world: World, bot: str, **query: Any) -> list[dict[str, Any]]:
    return [a async for a in world.mongo.alerts.find({"automation_id": bot, **query}).sort("_id", 1)]


@asynccontextmanager
async def crossings(world: World, bot: str) -> AsyncIterator[list[dict[str, Any]]]:
    """What is published of an automation's budgets."""
    heard: list[dict[str, Any]] = []
    async with world.connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(names.EVENTS_EXCHANGE, f"budget.crossed.{bot}")

        async def hear(message: Any) -> None:
            heard.append(json.loads(message.body))

        await queue.consume(hear, no_ack=True)
        yield heard


async def test_a_spent_budget_stops_calls_says_which_and_until_when_and_a_higher_one_lets_them_pass(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"completion_tokens": 100})
    await budgets(shared).set(Subject(bot), "day", 3 * A_CALL, soft_percent=50)
    async with crossings(shared, bot) as heard, shared.client(bot) as keyway:
        served, refused = await ask_until_refused(keyway)
        assert 2 <= served <= 3
        assert f"daily budget of {bot}" in str(refused)
        assert refused.retryable
        assert refused.retry_at is not None
        assert refused.retry_at.timestamp() == next_period_at("day", datetime.now(UTC).timestamp())
        assert refused.result is not None
        assert refused.result.attempts == []
        assert len(await shared.journal(bot)) == served
        await shared.accounted(bot, served)
        assert await spent(shared, bot) <= 3 * A_CALL

        # Nor is there money for a user of it; and a higher limit is in force at once.
        with pytest.raises(BudgetExceededError):
            await ask(keyway, user="u-1")
        await budgets(shared).set(Subject(bot), "day", 20 * A_CALL)
        assert (await ask(keyway)).status == "succeeded"
        await shared.accounted(bot, served + 1)

        async def told() -> bool:
            return bool(heard)

        await eventually(told, "budget.crossed")
        assert [(event["scope"], event["subject"], event["window"]) for event in heard] == [
            ("automation", bot, "day")
        ]
        assert heard[0]["threshold_percent"] == 50
        assert heard[0]["limit_nanousd"] == 3 * A_CALL
        assert heard[0]["spent_nanousd"] >= 3 * A_CALL // 2
    (alert,) = await alerts(shared, bot)
    assert (alert["kind"], alert["times"]) == ("budget_soft", 1)
    assert alert["resolved_at"] is not None  # by the higher limit
    await shared.assert_books_equal_journal(bot)


async def test_many_at_once_do_not_pass_a_budget(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"completion_tokens": 100, "latency_ms": 300})
    limit = 10 * A_CALL
    await budgets(shared).set(Subject(bot), "day", limit)
    await budgets(shared).set(Subject(bot), "month", 2 * limit)
    async with shared.client(bot) as keyway:
        answers = await asyncio.gather(*(ask(keyway) for _ in range(50)), return_exceptions=True)
    served = [answer for answer in answers if isinstance(answer, GenerationResult)]
    refused = [answer for answer in answers if isinstance(answer, BudgetExceededError)]
    assert len(served) + len(refused) == 50
    assert 8 <= len(served) <= 10
    assert len(await shared.journal(bot)) == len(served)
    await shared.accounted(bot, len(served))
    # The estimates were no less than what the calls cost: so nothing is overshot at all.
    assert await spent(shared, bot) <= limit
    await shared.assert_books_equal_journal(bot)

    async def settled() -> bool:
        found = [budget async for budget in shared.mongo.budgets.find({"automation_id": bot})]
        cost = await spent(shared, bot)
        return all(budget["held"] == [] and budget["spent_nanousd"] == cost for budget in found)

    await eventually(settled, "all holds given back")
    # What a budget counts can be made anew from the books.
    spoiled = {"$set": {"spent_nanousd": 2 * limit}}
    await shared.mongo.budgets.update_many({"automation_id": bot}, spoiled)
    status, _, stderr = await shared.cli("usage", "rebuild", "--automation", bot)
    assert status == 0, stderr
    assert await settled()


async def test_more_than_was_estimated_is_overshot_by_what_was_in_flight_only(shared: World) -> None:
    bot = await shared.add_automation()
    # Each call costs twice its estimate.
    await shared.add_key(bot, "Primary", {"completion_tokens": 200, "latency_ms": 300})
    limit = 10 * A_CALL
    await budgets(shared).set(Subject(bot), "day", limit)
    async with shared.client(bot) as keyway:
        answers = await asyncio.gather(*(ask(keyway) for _ in range(50)), return_exceptions=True)
    assert sum(isinstance(answer, BudgetExceededError) for answer in answers) >= 40
    served = sum(isinstance(answer, GenerationResult) for answer in answers)
    await shared.accounted(bot, served)
    assert await spent(shared, bot) <= 2 * limit
    await shared.assert_books_equal_journal(bot)


async def test_a_users_budget_stops_that_user_alone(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"completion_tokens": 100})
    await budgets(shared).set(Subject(bot, user="u-1"), "month", 2 * A_CALL)
    async with shared.client(bot) as keyway:
        _, refused = await ask_until_refused(keyway, "u-1")
        assert "monthly budget of user u-1" in str(refused)
        assert (await ask(keyway, user="u-2")).status == "succeeded"
        assert (await ask(keyway)).status == "succeeded"


async def test_a_keys_spent_budget_moves_calls_to_the_others_until_there_is_none(shared: World) -> None:
    bot = await shared.add_automation()
    for alias in ("Primary", "Secondary"):
        await shared.add_key(bot, alias, {"completion_tokens": 100, "latency_ms": 200})
    await budgets(shared).set(Subject(bot, key="Primary"), "day", 3 * A_CALL)
    async with shared.client(bot) as keyway:
        answers = await asyncio.gather(*(ask(keyway) for _ in range(20)))
        of_primary = sum(answer.key_alias == "Primary" for answer in answers)
        assert 1 <= of_primary <= 3
        await budgets(shared).set(Subject(bot, key="Secondary"), "day", A_CALL)
        # Each worker hears of it by `config.changed`.
        _, refused = await ask_until_refused(keyway, times=99)
        assert "daily budget of key " in str(refused)
        assert refused.retry_at is not None
        await budgets(shared).remove(Subject(bot, key="Primary"), "day")

        async def is_primary_back() -> bool:
            try:
                return (await ask(keyway)).key_alias == "Primary"
            except BudgetExceededError:
                return False

        await eventually(is_primary_back, "calls by the key that has no budget any more")
    await shared.assert_books_equal_journal(bot)


async def test_a_new_month_starts_anew(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"completion_tokens": 100})
    budget = await budgets(shared).set(Subject(bot), "month", A_CALL)
    async with shared.client(bot) as keyway:
        assert (await ask(keyway)).status == "succeeded"
        with pytest.raises(BudgetExceededError) as refused:
            await ask(keyway)
        first = datetime.now(UTC).replace(day=1) + timedelta(days=31)
        assert refused.value.retry_at is not None
        assert refused.value.retry_at.date() == first.replace(day=1).date()
        await shared.accounted(bot, 1)

        async def raised() -> bool:
            return len(await alerts(shared, bot, resolved_at=None)) == 1

        await eventually(raised, "the soft alert")

        async def settled() -> bool:
            found = await shared.mongo.budgets.find_one({"_id": budget.id})
            return found is not None and found["spent_nanousd"] > 0

        await eventually(settled, "the call's cost in its budget")
        # What a month changes is only how the stored times compare with the clock.
        last = (datetime.now(UTC).replace(day=1) - timedelta(days=1)).date().isoformat()
        await shared.mongo.budgets.update_one({"_id": budget.id}, {"$set": {"period": last[:7]}})
        await shared.mongo.usage_daily.delete_many({"automation_id": bot})
        await shared.mongo.alerts.update_many({"automation_id": bot}, {"$set": {"window": last[:7]}})
        assert (await ask(keyway)).status == "succeeded"

        async def resolved() -> bool:
            return not await alerts(shared, bot, resolved_at=None, window=last[:7])

        await eventually(resolved, "last month's alert resolved")


async def test_thresholds_are_told_of_once_whoever_accounts_and_however_often_events_come(
    world: World,
) -> None:
    bot = await world.add_automation()
    await budgets(world).set(Subject(bot), "day", 1000)
    await budgets(world).set(Subject(bot, user="u-7"), "month", 5000, hard=False)
    events = [
        usage_recorded(
            event_id=f"r-{n}:1",
            request_id=f"r-{n}",
            automation_id=bot,
            user_id="u-7",
            cost_nanousd=100,
            occurred_at=datetime.now(UTC),
        )
        for n in range(45)
    ]

    async def publish() -> None:
        async with world.connection.channel() as channel:
            exchange = await channel.get_exchange(names.EVENTS_EXCHANGE, ensure=False)
            for event in events:
                body = event.model_dump_json().encode()
                message = Message(body, type=names.USAGE_RECORDED, content_type="application/json")
                await exchange.publish(message, names.event_routing_key(names.USAGE_RECORDED, bot))

    async with crossings(world, bot) as heard:
        first = await world.start_accounting()
        await world.start_accounting()
        await publish()
        await world.accounted(bot, 10)
        first.process.kill()
        await publish()
        await world.accounted(bot, 45)

        async def told() -> bool:
            return len(heard) >= 3 and await world.mongo.outbox.count_documents({}) == 0

        await eventually(told, "three crossings")
        await publish()
        await world.start_accounting()
        await eventually(told, "nothing waits")
    # An event may be published twice where a process dies between the two; it bears the same figures.
    said = {(event["scope"], event["threshold_percent"], event["spent_nanousd"]) for event in heard}
    assert sorted((scope, percent) for scope, percent, _ in said) == [
        ("automation", 80),
        ("automation", 100),
        ("user", 80),
    ]
    found = await alerts(world, bot)
    assert [(alert["kind"], alert["times"]) for alert in found] == [
        ("budget_soft", 1),
        ("budget_soft", 1),
        ("budget_spent", 1),
    ]


async def test_a_budget_that_is_set_when_more_is_spent_already_says_so_at_once(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"completion_tokens": 100})
    async with shared.client(bot) as keyway:
        await ask(keyway)
        await shared.accounted(bot, 1)
        status, stdout, stderr = await shared.cli("budgets", "set", bot, "--daily-usd", "0.00005")
        assert (status, stdout) == (0, ""), stderr
        assert {alert["kind"] for alert in await alerts(shared, bot, resolved_at=None)} == {
            "budget_soft",
            "budget_spent",
        }

        async def stops() -> bool:
            try:
                await ask(keyway)
            except BudgetExceededError:
                return True
            return False

        # A budget that is new is heard of by `config.changed`.
        await eventually(stops, "the new budget in force")
    status, stdout, _ = await shared.cli("budgets", "list", "--automation", bot, "--json")
    (listed,) = json.loads(stdout)
    assert listed["spent_nanousd"] == await spent(shared, bot)
    assert (listed["limit_nanousd"], listed["soft_percent"], listed["hard"]) == (50_000, 80, True)
    assert (await shared.cli("budgets", "remove", bot, "--window", "day"))[0] == 0
    assert await alerts(shared, bot, resolved_at=None) == []
    status, _, stderr = await shared.cli("budgets", "remove", bot, "--window", "day")
    assert status == 1
    assert "no such budget" in stderr


async def test_budgets_can_be_given_with_the_automation(shared: World) -> None:
    bot = f"bot-{secrets.token_hex(4)}"
    status, _, stderr = await shared.cli(
        "automations", "add", bot, "--daily-budget-usd", "2.5", "--monthly-budget-usd", "40", "--json"
    )
    assert status == 0, stderr
    listed = await budgets(shared).list(bot)
    limits = {standing.budget.window: standing.budget.limit for standing in listed}
    assert limits == {"day": nanousd("2.5"), "month": nanousd("40")}
    assert (await shared.cli("automations", "set", bot, "--monthly-budget-usd", "0"))[0] == 0
    assert [standing.budget.window for standing in await budgets(shared).list(bot)] == ["day"]
    status, _, stderr = await shared.cli("automations", "set", bot, "--daily-budget-usd", "lots")
    assert status == 1
    assert "'lots' is not an amount of US dollars" in stderr
    await shared.admin.call("DELETE", f"users/{bot}")


async def test_a_dead_workers_hold_lapses(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"completion_tokens": 100})
    budget = await budgets(shared).set(Subject(bot), "day", A_CALL)
    until = datetime.now(UTC) + timedelta(seconds=3)
    hold = {"w": "dead", "n": 1, "t": A_CALL, "until": until}
    await shared.mongo.budgets.update_one({"_id": budget.id}, {"$set": {"held": [hold]}})
    async with shared.client(bot) as keyway:
        # It waits for what the dead one holds, since that is not spent.
        assert (await ask(keyway)).status == "succeeded"
        assert datetime.now(UTC) >= until


async def test_a_model_without_a_price_is_told_of_and_priced_by_hand(shared: World) -> None:
    bot, model = await shared.add_automation(), f"own-model-{secrets.token_hex(4)}"
    await shared.add_key(bot, "Primary", {"completion_tokens": 100})

    async def call(keyway: Keyway) -> GenerationResult:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        return await keyway.generate("/chat/completions", **body, max_tokens=100, timeout=120)

    async with shared.client(bot) as keyway:
        assert (await call(keyway)).cost_nanousd == 0
        await call(keyway)
        await shared.accounted(bot, 2)
        (alert,) = await alerts(shared, bot)
        assert (alert["kind"], alert["subject"], alert["resolved_at"]) == ("unknown_price", model, None)
        arguments = ("prices", "set", model, "--input", "1", "--output", "2.5", "--cached", "0.5")
        status, _, stderr = await shared.cli(*arguments)
        assert status == 0, stderr
        (alert,) = await alerts(shared, bot)
        assert alert["resolved_at"] is not None

        async def priced() -> bool:
            answers = await asyncio.gather(*(call(keyway) for _ in range(20)))
            return all(answer.cost_nanousd > 0 for answer in answers)

        await eventually(priced, "the price in every worker", every_s=0.5)
        answer = await call(keyway)
        usage = answer.usage
        plain = usage.prompt_tokens - usage.cached_tokens
        exact = plain * 1000 + usage.cached_tokens * 500 + usage.completion_tokens * 2500
        assert answer.cost_nanousd == exact
    status, stdout, _ = await shared.cli("prices", "list", "--json")
    assert {
        "model": model,
        "input_nanousd_per_million": 1_000_000_000,
        "output_nanousd_per_million": 2_500_000_000,
        "cached_nanousd_per_million": 500_000_000,
    } in json.loads(stdout)
    assert (await shared.cli("prices", "remove", model))[0] == 0
    assert (await shared.cli("prices", "remove", model))[0] == 1


async def test_what_a_killed_worker_held_of_a_budget_lapses_and_the_request_is_done(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", {"completion_tokens": 100, "hang_rate": 1.0})
    budget = await budgets(world).set(Subject(bot), "day", A_CALL)
    await world.start_accounting()
    doomed = await world.start_worker()
    async with world.client(bot) as keyway:
        asking = asyncio.create_task(ask(keyway))

        async def calling() -> bool:
            return await world.simulator.in_flight() == 1

        await eventually(calling, "the call")
        doomed.process.kill()
        await doomed.process.wait()
        found = await world.mongo.budgets.find_one({"_id": budget.id})
        assert found is not None
        assert sum(hold["t"] for hold in found["held"]) > A_CALL / 2
        # The times by which a hold lapses, and by which its worker is known for dead.
        over = {"$set": {"held.$[].until": datetime.now(UTC)}}
        await world.mongo.budgets.update_one({"_id": budget.id}, over)
        await world.silence_workers()
        await world.script(bot, "Primary", completion_tokens=100)
        await world.start_worker()
        assert (await asking).status == "succeeded"
    await world.accounted(bot, 2)
    assert await spent(world, bot) <= A_CALL
    await world.assert_totals_equal_ledger(bot, "automation")


async def test_a_key_is_not_lent_for_more_than_a_budget_has_left(world: World) -> None:
    bot = await add_bot(world)
    await world.add_key(bot, "Primary")
    await world.start_leasing()
    await world.start_accounting()
    # 2,000 tokens may be output, at 600 nano-USD each.
    budget = await budgets(world).set(Subject(bot), "day", 1_500_000)
    async with signed_in(world, bot) as lessee:
        lease = await lessee.lease(model=MODEL, estimated_tokens=2000)
        found = await world.mongo.budgets.find_one({"_id": budget.id})
        assert found is not None
        assert [(hold["w"], hold["t"]) for hold in found["held"]] == [(lease.lease_id, 1_200_000)]
        code, _ = await lessee.refusal(model=MODEL, estimated_tokens=2000)
        assert code == "deadline_exceeded"  # the rest may come back
        used = {"prompt_tokens": 0, "completion_tokens": 2000, "total_tokens": 2000}
        await lessee.report(lease, "r-1", **used)
        await world.accounted(bot, 1)

        async def counted() -> bool:
            found = await world.mongo.budgets.find_one({"_id": budget.id})
            return found is not None and (found["held"], found["spent_nanousd"]) == ([], 1_200_000)

        await eventually(counted, "the report in the budget")
        code, message = await lessee.refusal(model=MODEL, estimated_tokens=2000)
        assert code == "budget_exceeded"
        assert "has $0.000300 left" in message

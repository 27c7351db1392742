"""Holds on budgets: MongoDB decides what the pure functions do, and many at once never pass a limit."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.mongo import Document, Mongo, connect
from tests.harness import eventually
from workers.budgets.budget import Budget, budget_id, period_at
from workers.budgets.keeper import BudgetKeeper
from workers.budgets.reservations import Claim, Spending, renew_budget_holds, settle, take
from workers.keys.leases import LeasedKey, end_lease
from workers.keys.selection import Ask, Later, Refusal, RefusalReason

WORKER = "worker-1"
AMOUNT = st.integers(0, 3000)


@pytest.fixture(scope="module")
async def mongo(backing: dict[str, str]) -> AsyncIterator[Mongo]:
    name = f"test-{secrets.token_hex(5)}"
    async with connect(backing["KEYWAY_MONGO_URL"], name) as mongo:
        yield mongo
        await mongo.database.client.drop_database(name)


async def insert(mongo: Mongo, automation: str | None = None, **changes: Any) -> Document:
    automation = automation or f"bot-{secrets.token_hex(6)}"
    window = changes.get("window", "day")
    scope, subject = changes.get("scope", "automation"), changes.get("subject", automation)
    document: Document = {
        "_id": budget_id(scope, window, automation, subject),
        "scope": scope,
        "automation_id": automation,
        "subject": subject,
        "label": subject,
        "window": window,
        "limit_nanousd": 1000,
        "soft_percent": 80,
        "hard": True,
        "period": period_at(window, time.time()),
        "spent_nanousd": 0,
        "held": [],
    } | changes
    await mongo.budgets.insert_one(document)
    return document


async def read(mongo: Mongo, budget: Document) -> Budget:
    document = await mongo.budgets.find_one({"_id": budget["_id"]})
    assert document is not None
    return Budget.from_document(document, time.time())


def hold(worker: str, amount: int, lapses_in_s: float) -> Document:
    return {"w": worker, "n": 1, "t": amount, "until": datetime.now(UTC) + timedelta(seconds=lapses_in_s)}


STANDING = st.fixed_dictionaries(
    {
        "spent_nanousd": AMOUNT,
        "limit_nanousd": st.integers(1, 3000),
        "hard": st.booleans(),
    },
    optional={"period": st.just("2020-01-01")},
)


@given(standing=STANDING, held=AMOUNT, costs=st.lists(AMOUNT, min_size=1, max_size=4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_mongodb_admits_what_the_budget_says_fits(
    mongo: Mongo, standing: Document, held: int, costs: list[int]
) -> None:
    holds = [hold("other", held, 60), hold("gone", 3000, -1)]
    document = await insert(mongo, **standing, held=holds)
    before, now, expected, taken = await read(mongo, document), time.time(), 0, 0
    for cost in costs:
        if not before.fits(cost, now, taken):
            break
        expected, taken = expected + 1, taken + before.charge(cost)
    answer = await take(mongo, document["_id"], WORKER, costs)
    assert answer is not None
    granted, after = answer
    assert granted == expected
    assert after.held == held + taken
    assert after.spent == (0 if "period" in standing else standing["spent_nanousd"])


async def test_many_workers_at_once_never_hold_more_than_the_limit(mongo: Mongo) -> None:
    document = await insert(mongo)
    answers = await asyncio.gather(
        *(take(mongo, document["_id"], f"worker-{n % 4}", [70] * (1 + n % 3)) for n in range(30))
    )
    granted = sum(answer[0] for answer in answers if answer is not None)
    assert granted == 1000 // 70
    assert (await read(mongo, document)).held == granted * 70


async def test_a_dead_workers_hold_lapses_and_a_living_ones_is_renewed(mongo: Mongo) -> None:
    document = await insert(mongo, held=[hold("dead", 400, 60), hold("alive", 400, 60)])
    full = await take(mongo, document["_id"], WORKER, [400])
    assert full is not None
    assert full[0] == 0
    over = {"$set": {"held.$[].until": datetime.now(UTC) - timedelta(seconds=1)}}
    await mongo.budgets.update_one({"_id": document["_id"]}, over)
    await renew_budget_holds(mongo, "alive")
    freed = await take(mongo, document["_id"], WORKER, [400, 400])
    assert freed is not None
    assert freed[0] == 1


async def test_a_call_counts_in_the_period_in_which_it_ended(mongo: Mongo) -> None:
    document = await insert(mongo)
    await take(mongo, document["_id"], WORKER, [100, 100, 100])
    claim = Claim(document["_id"], "day", WORKER, 100)
    yesterday = time.time() - 86_400
    batch = [Spending(claim, 70, time.time()), Spending(claim, 90, yesterday)]
    budget = await settle(mongo, document["_id"], WORKER, batch)
    assert budget is not None
    assert (budget.spent, budget.held) == (70, 100)


def keeper_of(mongo: Mongo, name: str = WORKER) -> BudgetKeeper:
    return BudgetKeeper(mongo, name, time.time)


def make_ask(user: str | None = None, patience_s: float = 5) -> Ask:
    """One that may cost 600 nano-USD."""
    now = time.time()
    return Ask("gpt-4o-mini", 1, now + 600, patience_until=now + patience_s, input_tokens=0, user_id=user)


async def test_all_budgets_of_a_call_are_held_or_none(mongo: Mongo) -> None:
    day = await insert(mongo)
    bot = day["automation_id"]
    month = await insert(mongo, bot, window="month")
    user = await insert(mongo, bot, scope="user", subject="u-1", limit_nanousd=700, spent_nanousd=200)
    keeper = keeper_of(mongo)
    refused = await keeper.claim(bot, make_ask("u-1"))
    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.BUDGET_SPENT
    assert "user u-1" in refused.detail
    await keeper.close()
    assert [(await read(mongo, budget)).held for budget in (day, month, user)] == [0, 0, 0]
    claims = await keeper.claim(bot, make_ask())
    assert isinstance(claims, tuple)
    assert [(await read(mongo, budget)).held for budget in (day, month, user)] == [600, 600, 0]
    await keeper.settle(claims, 450, time.time())
    assert [(await read(mongo, budget)).spent for budget in (day, month)] == [450, 450]
    await keeper.close()


async def test_what_others_hold_is_waited_for_and_not_for_ever(mongo: Mongo) -> None:
    document = await insert(mongo)
    bot = document["automation_id"]
    one, other = keeper_of(mongo, "worker-a"), keeper_of(mongo, "worker-b")
    claims = await one.claim(bot, make_ask())
    assert isinstance(claims, tuple)
    assert isinstance(await other.claim(bot, make_ask(patience_s=0.2)), Later)
    waiting = asyncio.create_task(other.claim(bot, make_ask(patience_s=300)))
    await asyncio.sleep(0)
    await one.settle(claims, 100, time.time())
    assert isinstance(await waiting, tuple)


async def test_a_call_that_is_given_up_while_it_takes_holds_nothing(mongo: Mongo) -> None:
    document = await insert(mongo)
    keeper = keeper_of(mongo)
    await keeper.load(document["automation_id"], older_than_s=0)
    for _ in range(20):
        taking = asyncio.create_task(keeper.claim(document["automation_id"], make_ask()))
        await asyncio.sleep(0.001)
        taking.cancel()
        (taken,) = await asyncio.gather(taking, return_exceptions=True)
        if isinstance(taken, tuple):
            keeper.release(taken)

    async def nothing_is_held() -> bool:
        await keeper.close()
        return (await read(mongo, document)).held == 0

    await eventually(nothing_is_held, "nothing held of the calls that were given up")


async def test_a_lease_holds_its_estimate_until_it_ends(mongo: Mongo) -> None:
    document = await insert(mongo)
    bot = document["automation_id"]
    keeper = keeper_of(mongo)
    claims = await keeper.claim(bot, make_ask())
    assert isinstance(claims, tuple)
    granted_at = datetime.now(UTC)
    lease = LeasedKey("lease-1", bot, "key-1", "", 1, granted_at, granted_at + timedelta(minutes=5))
    await keeper.lend(claims, lease)
    found = await mongo.budgets.find_one({"_id": document["_id"]})
    assert found is not None
    assert [(held["w"], held["t"]) for held in found["held"]] == [("lease-1", 600)]
    await end_lease(mongo, lease, used=1)
    assert (await read(mongo, document)).held == 0


async def test_sixteen_workers_overshoot_by_what_was_in_flight_beyond_its_estimate_only(mongo: Mongo) -> None:
    limit, estimate, cost = 60_000, 600, 900
    document = await insert(mongo, limit_nanousd=limit)
    keepers = [keeper_of(mongo, f"worker-{n}") for n in range(16)]
    in_flight, most_in_flight, served = 0, 0, 0

    async def call(keeper: BudgetKeeper) -> None:
        nonlocal in_flight, most_in_flight, served
        claims = await keeper.claim(document["automation_id"], make_ask(patience_s=300))
        if not isinstance(claims, tuple):
            assert isinstance(claims, Refusal)
            assert claims.reason is RefusalReason.BUDGET_SPENT
            return
        in_flight += 1
        most_in_flight = max(most_in_flight, in_flight)
        await asyncio.sleep(0.005)
        in_flight -= 1
        served += 1
        await keeper.settle(claims, cost, time.time())

    await asyncio.gather(*(call(keeper) for keeper in keepers for _ in range(20)))
    budget = await read(mongo, document)
    assert budget.held == 0
    assert budget.spent == served * cost
    # A call still holds its estimate while its settlement is on its way: so those count as in flight too.
    assert limit - estimate < budget.spent <= limit + limit // estimate * (cost - estimate)
    assert most_in_flight <= limit // estimate
    assert served < 320

"""Reservations: MongoDB decides what the pure functions do, and many at once never pass a limit."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.mongo import Document, Mongo, connect
from tests.harness import PATIENCE_S, eventually
from workers.keys import automation_keys, blocks
from workers.keys.blocks import PART
from workers.keys.health import Sample
from workers.keys.holds import Holds
from workers.keys.key import Key
from workers.keys.leases import Held, LeasedKey, begin_lease, end_lease
from workers.keys.limits import CIRCUIT_FAILURES, RAMP_S, SPAN_S, model_room, room, used_in_window
from workers.keys.pool import KeyPool, Reservation
from workers.keys.reported import RateLimits
from workers.keys.reservations import load_keys, renew_holds, reserve
from workers.keys.selection import Ask, Refusal
from workers.keys.settlements import Settlement, settle, settle_plain, settled_view
from workers.keys.settler import Settled, Settler
from workers.keys.slots import give_slots, take_slots

WORKER = "worker-1"
MODEL = "gpt-4o-mini"


@pytest.fixture(scope="module")
async def mongo(backing: dict[str, str]) -> AsyncIterator[Mongo]:
    name = f"test-{secrets.token_hex(5)}"
    async with connect(backing["KEYWAY_MONGO_URL"], name) as mongo:
        yield mongo
        await mongo.database.client.drop_database(name)


def document(**changes: Any) -> Document:
    return {
        "_id": f"key-{secrets.token_hex(6)}",
        "automation_id": f"bot-{secrets.token_hex(6)}",
        "alias": "Primary",
        "base_url": "http://127.0.0.1/v1",
        "secret": {"master_key": "m", "nonce": b"n", "ciphertext": b"c"},
        "limits": {
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "tokens_per_day": None,
            "max_in_flight": None,
        },
        "status": "active",
    } | changes


async def insert(mongo: Mongo, **changes: Any) -> Document:
    inserted = document(**changes)
    await mongo.keys.insert_one(inserted)
    return inserted


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """What the pool calls an operation on the database with, from now on."""
    operation = getattr(automation_keys, name)
    calls: list[tuple[Any, ...]] = []

    async def noted(*arguments: Any) -> Any:
        calls.append(arguments)
        return await operation(*arguments)

    monkeypatch.setattr(automation_keys, name, noted)
    return calls


async def test_the_keys_are_not_read_again_when_nobody_waits_any_more(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await insert(mongo)
    keys = KeyPool(mongo, WORKER)

    async def reserved_amid_a_change(*arguments: Any) -> Any:
        reserved = await reserve(*arguments)
        keys.invalidate(key["automation_id"])
        return reserved

    reads = counted(monkeypatch, "load_keys")
    monkeypatch.setattr(automation_keys, "reserve", reserved_amid_a_change)
    await keys.start()
    ask = Ask(MODEL, 10, deadline=keys.now() + 60)
    assert isinstance(await keys.reserve(key["automation_id"], ask), Reservation)
    while (serving := keys._automations[key["automation_id"]]._server) is not None:
        await serving
    # What is read beside the call could be older than what the call's settlement says.
    assert len(reads) == 1
    await keys.close()


async def read(mongo: Mongo, key: Document) -> tuple[Key, float]:
    (found,), now = await load_keys(mongo, key["automation_id"])
    assert now is not None
    return found, now


def reported_document(now: datetime, requests: int | None, tokens: int | None, *outside: int) -> Document:
    """What the provider says of the model; what others use fades so slowly that a test does not see it."""
    outside_requests, outside_tokens, is_fresh = outside
    return {
        "model": MODEL,
        "requests_per_minute": requests,
        "tokens_per_minute": tokens,
        "until": now + timedelta(hours=1 if is_fresh else -1),
        "outside_requests": outside_requests,
        "outside_tokens": outside_tokens,
        "outside_since": now,
        "outside_until": now + timedelta(days=900),
    }


limit = st.none() | st.integers(1, 40)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limits=st.fixed_dictionaries(
        {
            "requests_per_minute": limit,
            "tokens_per_minute": limit,
            "tokens_per_day": limit,
            "max_in_flight": limit,
        }
    ),
    window=st.lists(
        st.tuples(
            st.integers(1, 90), st.integers(0, 5), st.integers(0, 10), st.sampled_from([MODEL, "other"])
        ),
        max_size=6,
    ),
    held=st.lists(st.tuples(st.integers(-60, 60), st.integers(1, 4), st.integers(0, 10)), max_size=3),
    leased=st.lists(
        st.tuples(st.integers(-60, 600), st.integers(0, 10), st.sampled_from([MODEL, "other", ""])),
        max_size=3,
    ),
    day_tokens=st.integers(0, 40),
    today=st.booleans(),
    failures=st.integers(0, 7),
    ramping_s=st.none() | st.integers(-30, RAMP_S + 20).filter(lambda s: s % 5 in {1, 2}),
    reported=st.none() | st.tuples(limit, limit, st.integers(0, 10), st.integers(0, 20), st.booleans()),
    asks=st.lists(st.integers(0, 15), min_size=1, max_size=8),
)
async def test_mongodb_admits_exactly_what_the_pure_functions_admit(  # noqa: PLR0917
    mongo: Mongo,
    limits: dict[str, int | None],
    window: list[tuple[int, int, int, str]],
    held: list[tuple[int, int, int]],
    leased: list[tuple[int, int, str]],
    day_tokens: int,
    today: bool,
    failures: int,
    ramping_s: int | None,
    reported: tuple[int | None, int | None, int, int, bool] | None,
    asks: list[int],
) -> None:
    now = datetime.now(UTC)
    second = int(now.timestamp())
    key = await insert(
        mongo,
        limits=limits,
        # Away from the edges of the window and the holds, since the clock goes on between the two looks.
        window=sorted(
            (
                {"s": second - age, "m": model, "n": n, "t": t}
                for age, n, t, model in window
                if abs(age - SPAN_S) > 3
            ),
            key=lambda entry: entry["s"],
        ),
        held=[
            {"w": f"other-{i}", "n": n, "t": t, "until": now + timedelta(seconds=until)}
            for i, (until, n, t) in enumerate(held)
            if abs(until) > 3
        ],
        leased=[
            {"id": f"lease-{i}", "m": model, "n": 1, "t": t, "until": now + timedelta(seconds=until)}
            for i, (until, t, model) in enumerate(leased)
            if abs(until) > 3
        ],
        day=(now if today else now - timedelta(days=1)).date().isoformat(),
        day_tokens=day_tokens,
        health={"failures": failures},
        **({} if ramping_s is None else {"ramp_since": now - timedelta(seconds=ramping_s)}),
        reported=[] if reported is None else [reported_document(now, *reported)],
    )
    before, seen_at = await read(mongo, key)
    left, left_of_model = room(before, seen_at), model_room(before, MODEL, seen_at)
    expected = 0
    for tokens in asks:
        if not (left.fits(tokens) and left_of_model.fits(tokens)):
            break
        left.take(tokens)
        left_of_model.take(tokens)
        expected += 1
    reserved = await reserve(mongo, key["_id"], WORKER, MODEL, asks)
    assert reserved is not None
    granted, after, at = reserved
    if at - now.timestamp() > 2:
        return  # The machine stood still, and the time may have passed an edge between the two looks.
    assert granted == expected
    assert room(after, at).tokens == left.tokens
    assert room(after, at).day_tokens == left.day_tokens
    assert room(after, at).requests == left.requests
    assert room(after, at).in_flight == left.in_flight
    if before.reported_for(MODEL, seen_at) is not None:
        assert model_room(after, MODEL, at).requests == left_of_model.requests
        assert model_room(after, MODEL, at).tokens == left_of_model.tokens


async def test_many_reservations_at_once_never_pass_a_limit(mongo: Mongo) -> None:
    key = await insert(mongo, limits={"requests_per_minute": 50, "tokens_per_minute": 1000})
    answers = await asyncio.gather(
        *(reserve(mongo, key["_id"], f"worker-{n % 8}", MODEL, [7] * (1 + n % 4)) for n in range(100))
    )
    granted = sum(answer[0] for answer in answers if answer is not None)
    assert granted == 50
    found, now = await read(mongo, key)
    assert used_in_window(found, now) == (50, 350)


plain = st.builds(
    Settlement,
    second=st.integers(0, 3),
    reserved=st.integers(0, 20),
    used=st.integers(0, 20),
    model=st.sampled_from([MODEL, "other"]),
    sample=st.none() | st.builds(Sample, ok=st.just(True), latency_ms=st.none() | st.integers(1, 900)),
    unmade=st.none() | st.integers(0, 3),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    window=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 40)), max_size=5),
    health=st.fixed_dictionaries(
        {},
        optional={
            "error_rate": st.floats(0, 1),
            "failures": st.integers(0, CIRCUIT_FAILURES - 1),
            "latency_ms": st.floats(1, 900),
        },
    ),
    is_today=st.booleans(),
    batch=st.lists(plain, min_size=1, max_size=6),
)
async def test_a_view_after_plain_settlements_is_what_mongodb_has(
    mongo: Mongo,
    window: list[tuple[int, int, int]],
    health: dict[str, float],
    is_today: bool,
    batch: list[Settlement],
) -> None:
    now = datetime.now(UTC)
    began = int(now.timestamp()) - 10
    key = await insert(
        mongo,
        window=[
            {"s": began + second, "m": model, "n": n, "t": t}
            for second, n, t in {entry[0]: entry for entry in window}.values()
            for model in (MODEL, "other")
        ],
        held=[{"w": WORKER, "n": 100, "t": 1000, "until": now + timedelta(seconds=60)}],
        day=(now if is_today else now - timedelta(days=1)).date().isoformat(),
        day_tokens=70,
        health=health,
    )
    batch = [replace(settled, second=began + settled.second) for settled in batch]
    before, seen_at = await read(mongo, key)
    assert await settle_plain(mongo, {(key["_id"], WORKER): batch}) == set()
    after, _ = await read(mongo, key)
    view = settled_view(before, batch, seen_at)
    assert (view.error_rate, view.latency_ms) == pytest.approx((after.error_rate, after.latency_ms))
    assert replace(view, error_rate=0, latency_ms=0) == replace(after, error_rate=0, latency_ms=0)


async def test_what_mongodb_refuses_of_many_settlements_is_tried_again_and_keeps_none_from_theirs(
    mongo: Mongo,
) -> None:
    good, broken = await insert(mongo), await insert(mongo, day_tokens="broken")
    today = datetime.now(UTC).date().isoformat()
    await mongo.keys.update_one({"_id": broken["_id"]}, {"$set": {"day": today}})
    holds = Holds(WORKER, partial(renew_holds, mongo))
    learnt: list[Key] = []
    settler = Settler(mongo, holds, view=lambda key: key, learn=learnt.append, now=time.time)
    views = {one["_id"]: Key.from_document(one, 0) for one in (good, broken)}
    holds.take(WORKER, 4)
    written = [
        settler.submit(Settled(views[one["_id"]], WORKER, Settlement(0, 10, 7, MODEL)))
        for one in (good, broken, good)
    ]

    async def is_learnt() -> bool:
        return bool(learnt)

    await eventually(is_learnt, "the good key's settlements")
    later = settler.submit(Settled(views[good["_id"]], WORKER, Settlement(0, 10, 1, MODEL)))
    await asyncio.gather(later, *written)
    assert (await read(mongo, good))[0].day_tokens == 15
    assert holds.calls == 0
    # What the broken key's document holds for this worker lapses with the name.
    assert holds.name != WORKER


async def test_a_busy_automation_asks_the_database_once_for_many_calls_and_counts_just_those_made(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine that is busy, what is reserved ahead would be given back meanwhile.
    for module in (blocks, automation_keys):
        monkeypatch.setattr(module, "BLOCK_S", 3600)
    key = await insert(mongo)
    keys = KeyPool(mongo, WORKER)
    updates = counted(monkeypatch, "reserve")
    await keys.start()
    calls = 60
    for _ in range(calls):
        reserved = await keys.reserve(key["automation_id"], Ask(MODEL, 10, deadline=keys.now() + 60))
        assert isinstance(reserved, Reservation)
        assert keys.held_calls == 1
        await keys.settle(reserved, Settlement(reserved.second, reserved.tokens, 7, MODEL))
    await keys.close()
    assert len(updates) < calls / 2
    found, now = await read(mongo, key)
    assert used_in_window(found, now) == (calls, calls * 7)
    assert (found.held_calls, found.held_tokens, found.day_tokens) == (0, 0, calls * 7)


async def test_what_is_reserved_ahead_is_not_handed_out_once_the_key_is_disabled(mongo: Mongo) -> None:
    key = await insert(mongo)
    keys = KeyPool(mongo, WORKER)
    await keys.start()
    ask = Ask(MODEL, 10, deadline=keys.now() + 60)
    while (seen := keys._automations.get(key["automation_id"])) is None or not seen.calls_ahead:
        reserved = await keys.reserve(key["automation_id"], ask)
        assert isinstance(reserved, Reservation)
        keys.release(reserved)
    await mongo.keys.update_one({"_id": key["_id"]}, {"$set": {"status": "disabled"}})
    keys.invalidate(key["automation_id"])
    assert isinstance(await keys.reserve(key["automation_id"], ask), Refusal)
    await keys.close()
    found, now = await read(mongo, key)
    assert (used_in_window(found, now), found.held_calls) == ((0, 0), 0)


async def test_many_pools_that_reserve_ahead_never_pass_a_limit_and_use_all_of_it(mongo: Mongo) -> None:
    limit = 400
    key = await insert(mongo, limits={"requests_per_minute": limit, "tokens_per_minute": None})
    pools = [KeyPool(mongo, f"worker-{number}") for number in range(4)]
    await asyncio.gather(*(one.start() for one in pools))
    reserved: list[Reservation] = []

    async def ask(one: KeyPool) -> bool:
        answer = await one.reserve(key["automation_id"], Ask(MODEL, 1, deadline=one.now() + 30))
        if isinstance(answer, Reservation):
            reserved.append(answer)
            await one.settle(answer, Settlement(answer.second, 1, 1, MODEL))
        return isinstance(answer, Reservation)

    async def ask_on(one: KeyPool) -> None:
        while await ask(one):
            assert len(reserved) <= limit

    await asyncio.gather(*(ask_on(one) for one in pools for _ in range(4)))
    await asyncio.gather(*(one.close() for one in pools))
    found, now = await read(mongo, key)
    assert used_in_window(found, now)[0] == len(reserved)
    # Those who were refused last could not know what others gave back in the same moment.
    assert limit - len(pools) * limit // PART <= len(reserved) <= limit


async def test_calls_that_wait_for_a_slot_hold_no_reservation(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, other, full = await insert(mongo), await insert(mongo), await insert(mongo, status="disabled")
    most, calls = 3, 40
    keys = KeyPool(mongo, WORKER, max_in_flight=most)
    await keys.start()
    updates = counted(monkeypatch, "reserve")
    order: list[str] = []
    under_way: set[int] = set()

    async def call(key: Document) -> None:
        reserved = await keys.reserve(key["automation_id"], Ask(MODEL, 10, deadline=keys.now() + 60))
        assert isinstance(reserved, Reservation)
        order.append(key["_id"])
        under_way.add(len(order))
        assert len(under_way) <= most
        await asyncio.sleep(0)
        under_way.pop()
        await keys.settle(reserved, Settlement(reserved.second, 10, 7, MODEL))

    # Who waits for a key holds no slot.
    await mongo.keys.update_one(
        {"_id": full["_id"]},
        [{"$set": {"status": "active", "cooled_until": {"$add": ["$$NOW", 3_600_000]}}}],
    )
    ask = Ask(MODEL, 10, deadline=keys.now() + 7200)
    waiting = [asyncio.create_task(keys.reserve(full["automation_id"], ask)) for _ in range(2 * most)]
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(call(busy) for _ in range(calls)), *(call(other) for _ in range(5)))
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    # The other's few calls do not wait for all of the busy one's.
    assert other["_id"] in order[: most * 4]
    assert order[-1] == busy["_id"]
    await keys.close()
    # Some calls may be reserved ahead, and the key that cools tried by what was read of it before.
    counts = [len(tokens) for _, key_id, *_, tokens in updates if key_id in {busy["_id"], other["_id"]}]
    assert calls + 5 <= sum(counts) < 2 * (calls + 5)
    found, now = await read(mongo, busy)
    assert (used_in_window(found, now), found.held_calls) == ((calls, calls * 7), 0)


async def test_what_is_settled_gives_back_what_was_not_used(mongo: Mongo) -> None:
    key = await insert(mongo, limits={"tokens_per_minute": 100, "tokens_per_day": 1000, "max_in_flight": 2})
    reserved = await reserve(mongo, key["_id"], WORKER, MODEL, [40, 40])
    assert reserved is not None
    second = reserved[1].window[-1].second
    assert (reserved[1].held_calls, reserved[1].held_tokens) == (2, 80)
    await settle(
        mongo,
        key["_id"],
        WORKER,
        [
            Settlement(second, 40, 10, MODEL, Sample(ok=True, latency_ms=200)),
            Settlement(second, 40, 55, MODEL, Sample(ok=True, latency_ms=400)),
        ],
    )
    found, now = await read(mongo, key)
    assert used_in_window(found, now) == (2, 65)
    assert (found.held_calls, found.held_tokens, found.day_tokens) == (0, 0, 65)
    assert 200 < found.latency_ms < 400
    assert found.failures_in_a_row == 0


async def test_the_longer_cooldown_wins(mongo: Mongo) -> None:
    key = await insert(mongo)
    for cool_ms in (60_000, 5_000):
        await reserve(mongo, key["_id"], WORKER, MODEL, [1])
        await settle(mongo, key["_id"], WORKER, [Settlement(0, 1, 0, cool_ms=cool_ms)])
    found, now = await read(mongo, key)
    assert 50 < found.cooled_until - now <= 60
    refused = await reserve(mongo, key["_id"], WORKER, MODEL, [1])
    assert refused is not None
    assert refused[0] == 0


async def test_failures_in_a_row_open_the_circuit_and_one_trial_follows(mongo: Mongo) -> None:
    key = await insert(mongo)
    failure = Settlement(0, 1, 0, MODEL, Sample(ok=False))
    await settle(mongo, key["_id"], WORKER, [failure] * 4)
    found, now = await read(mongo, key)
    assert found.cooled_until <= now
    await settle(mongo, key["_id"], WORKER, [failure] * 30)
    found, now = await read(mongo, key)
    assert found.failures_in_a_row == CIRCUIT_FAILURES
    assert 0 < found.cooled_until - now <= 5
    # What was under way when it opened fails too, and says nothing new.
    await settle(mongo, key["_id"], WORKER, [failure] * 30)
    assert (await read(mongo, key))[0].cooled_until == found.cooled_until

    await mongo.keys.update_one({"_id": key["_id"]}, {"$unset": {"cooled_until": ""}})
    trial = await reserve(mongo, key["_id"], WORKER, MODEL, [1, 1, 1])
    assert trial is not None
    assert trial[0] == 1
    await settle(mongo, key["_id"], WORKER, [failure])
    found, now = await read(mongo, key)
    assert found.failures_in_a_row == CIRCUIT_FAILURES + 1
    assert 5 < found.cooled_until - now <= 10

    await mongo.keys.update_one({"_id": key["_id"]}, {"$unset": {"cooled_until": ""}})
    await reserve(mongo, key["_id"], WORKER, MODEL, [1])
    _, before = await read(mongo, key)
    await settle(mongo, key["_id"], WORKER, [Settlement(0, 1, 1, MODEL, Sample(ok=True, latency_ms=1))])
    found, now = await read(mongo, key)
    assert found.failures_in_a_row == 0
    assert before <= found.ramp_since <= now
    # Closed, it is given one call at a time at first, and all that it may later.
    for since_s, calls in ((0, 1), (11, 4), (RAMP_S, 9)):
        at = {"$set": {"ramp_since": datetime.now(UTC) - timedelta(seconds=since_s), "held": []}}
        await mongo.keys.update_one({"_id": key["_id"]}, at)
        ramped = await reserve(mongo, key["_id"], WORKER, MODEL, [1] * 9)
        assert ramped is not None
        assert ramped[0] == calls


async def test_holds_of_a_worker_that_is_gone_lapse_and_those_of_a_living_one_are_renewed(
    mongo: Mongo,
) -> None:
    key = await insert(mongo, limits={"max_in_flight": 2})
    for worker in ("dead", "alive"):
        await reserve(mongo, key["_id"], worker, MODEL, [1])
    full = await reserve(mongo, key["_id"], WORKER, MODEL, [1])
    assert full is not None
    assert full[0] == 0
    over = {"$set": {"held.$[].until": datetime.now(UTC) - timedelta(seconds=1)}}
    await mongo.keys.update_one({"_id": key["_id"]}, over)
    await renew_holds(mongo, "alive")
    freed = await reserve(mongo, key["_id"], WORKER, MODEL, [1, 1])
    assert freed is not None
    assert freed[0] == 1


async def test_a_lower_limit_that_the_provider_reports_is_kept_to_for_its_model(mongo: Mongo) -> None:
    key = await insert(mongo, limits={"requests_per_minute": 600, "tokens_per_minute": 500})
    said = RateLimits(requests_per_minute=3, tokens_per_minute=1000)
    await settle(mongo, key["_id"], WORKER, [Settlement(0, 1, 0, MODEL, rate_limits=said)])
    reserved = await reserve(mongo, key["_id"], WORKER, MODEL, [1] * 10)
    assert reserved is not None
    assert reserved[0] == 3
    other = await reserve(mongo, key["_id"], WORKER, "gpt-4o", [1] * 10)
    assert other is not None
    assert other[0] == 10
    assert used_in_window(other[1], other[2]) == (13, 13)
    assert used_in_window(other[1], other[2], MODEL) == (3, 3)


async def test_what_others_use_of_a_limit_is_left_to_them(mongo: Mongo) -> None:
    key = await insert(mongo)
    reserved = await reserve(mongo, key["_id"], WORKER, MODEL, [10] * 4)
    assert reserved is not None
    second = reserved[1].window[-1].second
    # Of 20 requests and 1,000 tokens the provider has 9 and 400 left: 7 and 560 are not ours.
    said = RateLimits(20, 1000, 9, 400, reset_ms=60_000)
    await settle(mongo, key["_id"], WORKER, [Settlement(second, 10, 10, MODEL, rate_limits=said)])
    found, now = await read(mongo, key)
    assert found.reported[MODEL].outside(now)[0] == 7
    assert 400 < found.reported[MODEL].outside(now)[1] <= 560  # it fades, within the minute
    more = await reserve(mongo, key["_id"], WORKER, MODEL, [1] * 20)
    assert more is not None
    assert more[0] == 9
    # A provider that counts less than we do only has not seen all yet: what is known is kept.
    unseen = RateLimits(20, 1000, 19, 990, reset_ms=60_000)
    await settle(mongo, key["_id"], WORKER, [Settlement(second, 10, 10, MODEL, rate_limits=unseen)])
    found, now = await read(mongo, key)
    assert found.reported[MODEL].outside(now)[0] == 7


async def test_an_automations_own_cap_is_never_passed_and_what_a_dead_worker_held_comes_back(
    mongo: Mongo,
) -> None:
    automation = f"bot-{secrets.token_hex(6)}"
    await mongo.automations.insert_one(
        {"_id": automation, "enabled": True, "created_at": datetime.now(UTC), "max_in_flight": 10}
    )
    granted = await asyncio.gather(
        *(take_slots(mongo, automation, f"worker-{n % 4}", 1 + n % 3) for n in range(30))
    )
    assert sum(granted) == 10
    await give_slots(mongo, automation, "worker-0", sum(granted[0::4]))
    assert await take_slots(mongo, automation, "worker-1", 100) == sum(granted[0::4])
    assert await take_slots(mongo, automation, "worker-2", 1) == 0
    over = {"$set": {"held.$[].until": datetime.now(UTC) - timedelta(seconds=1)}}
    await mongo.automations.update_one({"_id": automation}, over)
    assert await take_slots(mongo, automation, "worker-2", 100) == 10
    await mongo.automations.update_one({"_id": automation}, {"$set": {"max_in_flight": None}})
    assert await take_slots(mongo, automation, "worker-2", 100) == 100


def leased_key(key: Document, tokens: int, granted_at: datetime) -> LeasedKey:
    ends = granted_at + timedelta(minutes=5)
    lease_id = f"lease-{secrets.token_hex(4)}"
    return LeasedKey(lease_id, key["automation_id"], key["_id"], MODEL, tokens, granted_at, ends)


async def test_a_lease_takes_the_place_of_its_reservation_and_of_nobody_elses(mongo: Mongo) -> None:
    key = await insert(mongo, status="active")
    reserved = await reserve(mongo, key["_id"], WORKER, MODEL, [40, 40])
    assert reserved is not None
    held = Held(WORKER, reserved[1].window[-1].second, 40, MODEL)
    lease = leased_key(key, 40, datetime.now(UTC))
    assert await begin_lease(mongo, lease, held)
    found, now = await read(mongo, key)
    assert used_in_window(found, now) == used_in_window(found, now, MODEL) == (2, 80)
    assert (found.held_calls, found.held_tokens) == (2, 80)
    assert [(call.tokens, call.model) for call in found.leased] == [(40, MODEL)]
    assert await begin_lease(mongo, lease)
    again, _ = await read(mongo, key)
    assert again.leased == found.leased
    for _ in range(2):
        await end_lease(mongo, lease, 55, in_minute=True)
    ended, now = await read(mongo, key)
    assert used_in_window(ended, now) == (2, 95)
    assert (ended.held_calls, ended.held_tokens, ended.day_tokens, ended.leased) == (1, 40, 55, ())


async def test_a_lease_of_yesterday_is_charged_to_yesterday(mongo: Mongo) -> None:
    key = await insert(mongo, status="active")
    lease = leased_key(key, 40, datetime.now(UTC) - timedelta(days=1))
    await mongo.keys.update_one(
        {"_id": key["_id"]},
        {
            "$set": {
                "leased": [
                    {
                        "id": lease.id,
                        "m": MODEL,
                        "n": 1,
                        "t": 40,
                        "until": datetime.now(UTC) + timedelta(minutes=1),
                    }
                ]
            }
        },
    )
    await end_lease(mongo, lease, 55)
    found, now = await read(mongo, key)
    assert (found.held_calls, found.day_tokens, used_in_window(found, now)) == (0, 0, (0, 0))


@pytest.mark.parametrize("status", ["disabled", "error"])
async def test_a_key_that_was_stopped_meanwhile_is_not_leased(mongo: Mongo, status: str) -> None:
    key = await insert(mongo, status=status)
    assert not await begin_lease(mongo, leased_key(key, 40, datetime.now(UTC)))
    found, _ = await read(mongo, key)
    assert found.leased == ()


async def test_a_lease_lapses_by_itself(mongo: Mongo) -> None:
    key = await insert(mongo, limits={"requests_per_minute": 1}, status="active")
    assert await begin_lease(mongo, leased_key(key, 40, datetime.now(UTC) - timedelta(hours=1)))
    reserved = await reserve(mongo, key["_id"], WORKER, MODEL, [40])
    assert reserved is not None
    assert reserved[0] == 1

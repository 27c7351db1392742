"""Reservations: MongoDB decides what the pure functions do, and many at once never pass a limit."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.mongo import Document, Mongo, connect
from workers.keys.health import Sample
from workers.keys.key import Key, Limits
from workers.keys.limits import SPAN_S, room, used_in_window
from workers.keys.reservations import Settlement, load_keys, renew_holds, reserve, settle

WORKER = "worker-1"


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


async def read(mongo: Mongo, key: Document) -> tuple[Key, float]:
    (found,), now = await load_keys(mongo, key["automation_id"])
    assert now is not None
    return found, now


limit = st.none() | st.integers(1, 40)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limits=st.fixed_dictionaries(
        {
            "requests_per_minute": limit,
            "tokens_per_minute": limit,
            "tokens_per_day": limit,
            "max_in_flight": limit,
        }
    ),
    window=st.lists(st.tuples(st.integers(1, 90), st.integers(0, 5), st.integers(0, 10)), max_size=6),
    held=st.lists(st.tuples(st.integers(-60, 60), st.integers(1, 4), st.integers(0, 10)), max_size=3),
    day_tokens=st.integers(0, 40),
    today=st.booleans(),
    failures=st.integers(0, 7),
    asks=st.lists(st.integers(0, 15), min_size=1, max_size=8),
)
async def test_mongodb_admits_exactly_what_the_pure_functions_admit(  # noqa: PLR0917
    mongo: Mongo,
    limits: dict[str, int | None],
    window: list[tuple[int, int, int]],
    held: list[tuple[int, int, int]],
    day_tokens: int,
    today: bool,
    failures: int,
    asks: list[int],
) -> None:
    now = datetime.now(UTC)
    second = int(now.timestamp())
    key = await insert(
        mongo,
        limits=limits,
        # Away from the edges of the window and the holds, since the clock goes on between the two looks.
        window=sorted(
            ({"s": second - age, "n": n, "t": t} for age, n, t in window if abs(age - SPAN_S) > 3),
            key=lambda entry: entry["s"],
        ),
        held=[
            {"w": f"other-{i}", "n": n, "t": t, "until": now + timedelta(seconds=until)}
            for i, (until, n, t) in enumerate(held)
            if abs(until) > 3
        ],
        day=(now if today else now - timedelta(days=1)).date().isoformat(),
        day_tokens=day_tokens,
        health={"failures": failures},
    )
    before, seen_at = await read(mongo, key)
    left = room(before, seen_at)
    expected = 0
    for tokens in asks:
        if not left.fits(tokens):
            break
        left.take(tokens)
        expected += 1
    reserved = await reserve(mongo, key["_id"], WORKER, asks)
    assert reserved is not None
    granted, after, at = reserved
    assert granted == expected
    assert room(after, at).tokens == left.tokens
    assert room(after, at).day_tokens == left.day_tokens
    assert room(after, at).requests == left.requests
    assert room(after, at).in_flight == left.in_flight


async def test_many_reservations_at_once_never_pass_a_limit(mongo: Mongo) -> None:
    key = await insert(mongo, limits={"requests_per_minute": 50, "tokens_per_minute": 1000})
    answers = await asyncio.gather(
        *(reserve(mongo, key["_id"], f"worker-{n % 8}", [7] * (1 + n % 4)) for n in range(100))
    )
    granted = sum(answer[0] for answer in answers if answer is not None)
    assert granted == 50
    found, now = await read(mongo, key)
    assert used_in_window(found, now) == (50, 350)


async def test_what_is_settled_gives_back_what_was_not_used(mongo: Mongo) -> None:
    key = await insert(mongo, limits={"tokens_per_minute": 100, "tokens_per_day": 1000, "max_in_flight": 2})
    reserved = await reserve(mongo, key["_id"], WORKER, [40, 40])
    assert reserved is not None
    second = reserved[1].window[-1].second
    assert (reserved[1].held_calls, reserved[1].held_tokens) == (2, 80)
    await settle(
        mongo,
        key["_id"],
        WORKER,
        [
            Settlement(second, 40, 10, Sample(ok=True, latency_ms=200)),
            Settlement(second, 40, 55, Sample(ok=True, latency_ms=400)),
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
        await reserve(mongo, key["_id"], WORKER, [1])
        await settle(mongo, key["_id"], WORKER, [Settlement(0, 1, 0, cool_ms=cool_ms)])
    found, now = await read(mongo, key)
    assert 50 < found.cooled_until - now <= 60
    refused = await reserve(mongo, key["_id"], WORKER, [1])
    assert refused is not None
    assert refused[0] == 0


async def test_failures_in_a_row_open_the_circuit_and_one_trial_follows(mongo: Mongo) -> None:
    key = await insert(mongo)
    failure = Settlement(0, 1, 0, Sample(ok=False))
    await settle(mongo, key["_id"], WORKER, [failure] * 4)
    found, now = await read(mongo, key)
    assert found.cooled_until <= now
    await settle(mongo, key["_id"], WORKER, [failure])
    found, now = await read(mongo, key)
    assert 3 < found.cooled_until - now <= 5
    await settle(mongo, key["_id"], WORKER, [failure])
    found, now = await read(mongo, key)
    assert 8 < found.cooled_until - now <= 10

    await mongo.keys.update_one({"_id": key["_id"]}, {"$unset": {"cooled_until": ""}})
    trial = await reserve(mongo, key["_id"], WORKER, [1, 1, 1])
    assert trial is not None
    assert trial[0] == 1
    await settle(mongo, key["_id"], WORKER, [Settlement(0, 1, 1, Sample(ok=True, latency_ms=1))])
    closed = await reserve(mongo, key["_id"], WORKER, [1, 1, 1])
    assert closed is not None
    assert closed[0] == 3


async def test_holds_of_a_worker_that_is_gone_lapse_and_those_of_a_living_one_are_renewed(
    mongo: Mongo,
) -> None:
    key = await insert(mongo, limits={"max_in_flight": 2})
    for worker in ("dead", "alive"):
        await reserve(mongo, key["_id"], worker, [1])
    nearly_over = {"$set": {"held.$[].until": datetime.now(UTC) + timedelta(milliseconds=400)}}
    await mongo.keys.update_one({"_id": key["_id"]}, nearly_over)
    await renew_holds(mongo, "alive")
    full = await reserve(mongo, key["_id"], WORKER, [1])
    assert full is not None
    assert full[0] == 0
    await asyncio.sleep(0.5)  # the hold's own time, on the server's clock
    freed = await reserve(mongo, key["_id"], WORKER, [1, 1])
    assert freed is not None
    assert freed[0] == 1


async def test_a_lower_limit_that_the_provider_reports_is_kept_to(mongo: Mongo) -> None:
    key = await insert(mongo, limits={"requests_per_minute": 600, "tokens_per_minute": 50})
    refused = Settlement(0, 1, 0, reported=Limits(requests_per_minute=3, tokens_per_minute=1000))
    await settle(mongo, key["_id"], WORKER, [refused])
    reserved = await reserve(mongo, key["_id"], WORKER, [1] * 10)
    assert reserved is not None
    assert reserved[0] == 3
    assert reserved[1].limits == Limits(requests_per_minute=3, tokens_per_minute=50)

"""What is kept by names that outsiders choose does not grow with the names."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from contracts.messages import Path
from infra.mongo import Document, Mongo, connect
from tests.builders import key_document, make_envelope
from workers.generation.classification import MODEL_UNAVAILABLE
from workers.generation.reading import Request
from workers.generation.spending import answered, failed
from workers.generation.upstream import Answer, Failure
from workers.keys.counted_models import MOST_MODELS
from workers.keys.pool import KeyPool, Reservation
from workers.keys.reported import RateLimits
from workers.keys.selection import Ask
from workers.keys.settlements import MOST_REMEMBERED, Settlement, settle

WORD = RateLimits(500, 30_000, 499, 29_000, 1000)
REAL = "gpt-4o-mini"


@pytest.fixture(scope="module")
async def mongo(backing: dict[str, str]) -> AsyncIterator[Mongo]:
    name = f"test-{secrets.token_hex(5)}"
    async with connect(backing["KEYWAY_MONGO_URL"], name) as mongo:
        await mongo.ensure_schema()
        yield mongo
        await mongo.database.client.drop_database(name)


async def add_key(mongo: Mongo) -> tuple[str, str]:
    name = secrets.token_hex(4)
    document = key_document(_id=f"key-{name}", automation_id=f"bot-{name}", fingerprint=name)
    await mongo.keys.insert_one(document)
    return document["_id"], document["automation_id"]


async def stored(mongo: Mongo, key_id: str) -> Document:
    document = await mongo.keys.find_one({"_id": key_id})
    assert document is not None
    return document


async def call(pool: KeyPool, automation_id: str, model: str, *, there_is: bool) -> None:
    """Reserve and settle as a worker does, with a provider that knows the model or does not."""
    now = pool.now()
    reserved = await pool.reserve(automation_id, Ask(model, 10, deadline=now + 600))
    assert isinstance(reserved, Reservation)
    request = Request(make_envelope(), Path.CHAT_COMPLETIONS, {"model": model}, None, now + 600)
    if there_is:
        document = {"model": model, "usage": {"prompt_tokens": 5, "completion_tokens": 5}}
        _, settlement = answered(request, reserved, Answer(b"{}", document, 200, 5, WORD), 1, now)
        pool.answered(automation_id, model)
    else:
        failure = Failure(MODEL_UNAVAILABLE, "no such model", 5, 404, rate_limits=WORD)
        _, settlement = failed(request, reserved, failure, 1, now)
    await pool.settle(reserved, settlement)


async def test_thousands_of_made_up_models_do_not_grow_a_keys_document(mongo: Mongo) -> None:
    key_id, automation_id = await add_key(mongo)
    pool = KeyPool(mongo, "worker-1")
    await pool.start()
    await call(pool, automation_id, REAL, there_is=True)
    for begin in range(0, 3_000, 250):
        names = [f"made-up-{number}" for number in range(begin, begin + 250)]
        await asyncio.gather(*(call(pool, automation_id, name, there_is=False) for name in names))
    await call(pool, automation_id, "another-real-one", there_is=True)
    await call(pool, automation_id, "another-real-one", there_is=True)
    await pool.close()
    document = await stored(mongo, key_id)
    assert 0 < len(document["denied_models"]) <= MOST_REMEMBERED
    assert {word["model"] for word in document["reported"]} == {REAL, "another-real-one"}
    # A model has a place for a while; the one for which the provider answered got another's.
    assert len({entry["m"] for entry in document["window"]}) <= MOST_MODELS + 2
    # Nothing is lost of what counts: each call, under its own name or with the others.
    assert sum(entry["n"] for entry in document["window"]) <= 3_003
    assert not document["held"]


async def test_what_workers_remember_of_models_together_is_bounded_and_the_oldest_goes_first(
    mongo: Mongo,
) -> None:
    key_id, _ = await add_key(mongo)
    for number in range(MOST_REMEMBERED + 20):
        word = Settlement(0, 0, 0, f"m-{number}", denies_model=True, rate_limits=WORD)
        await settle(mongo, key_id, f"worker-{number}", [word])
    document = await stored(mongo, key_id)
    latest = [f"m-{number}" for number in range(20, MOST_REMEMBERED + 20)]
    assert [denied["model"] for denied in document["denied_models"]] == latest
    assert [word["model"] for word in document["reported"]] == latest


async def test_what_is_over_is_forgotten_with_the_next_word(mongo: Mongo) -> None:
    key_id, _ = await add_key(mongo)
    first = Settlement(0, 0, 0, "first", denies_model=True, rate_limits=WORD)
    await settle(mongo, key_id, "worker-1", [first])
    is_over = {"$mergeObjects": ["$$this", {"until": "$$NOW"}]}
    over = [
        {"$set": {field: {"$map": {"input": f"${field}", "in": is_over}}}}
        for field in ("denied_models", "reported")
    ]
    await mongo.keys.update_one({"_id": key_id}, over)
    await settle(mongo, key_id, "worker-1", [replace(first, model="second")])
    document = await stored(mongo, key_id)
    assert [denied["model"] for denied in document["denied_models"]] == ["second"]
    assert [word["model"] for word in document["reported"]] == ["second"]

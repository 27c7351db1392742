"""What is kept by names that outsiders choose does not grow with the names."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from contracts.messages import Path, UsageRecorded
from infra.mongo import Document, Mongo, connect
from tests.builders import NOON, key_document, make_envelope, usage_recorded
from workers.accounting import crowds
from workers.accounting.budgets import MOST_UNPRICED
from workers.accounting.ledger import Ledger
from workers.accounting.rebuild import Rebuild
from workers.budgets.budget import budget_id
from workers.generation.answers import Answer, Failure
from workers.generation.classification import MODEL_UNAVAILABLE
from workers.generation.reading import Request
from workers.generation.spending import answered, failed
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
    request = Request(make_envelope(), Path.CHAT_COMPLETIONS, {"model": model}, None, now + 600, 10)
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


async def totals_of(mongo: Mongo, automation_id: str, dimension: str) -> dict[str, int]:
    found = mongo.usage_daily.find({"automation_id": automation_id, "dimension": dimension})
    return {total["subject"]: total["attempts"] async for total in found}


async def test_totals_of_made_up_models_and_users_are_bounded_and_equal_the_ledger(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowds, "MOST_SUBJECTS", {"model": 5, "user": 10})
    bot, quiet = (f"bot-{secrets.token_hex(4)}" for _ in range(2))
    await mongo.budgets.insert_one(
        {
            "_id": budget_id("user", "day", bot, "budgeted"),
            "scope": "user",
            "automation_id": bot,
            "subject": "budgeted",
            "label": "budgeted",
            "window": "day",
            "limit_nanousd": 10**12,
            "soft_percent": 80,
            "hard": True,
            "period": "",
            "spent_nanousd": 0,
            "held": [],
        }
    )

    def named(number: int, automation_id: str = bot, **changes: object) -> UsageRecorded:
        event = f"{secrets.token_hex(4)}-{number}"
        said = {"model": f"made-up-{number}", "user_id": f"u-{number}", "price_known": False, **changes}
        return usage_recorded(event_id=f"{event}:1", request_id=event, automation_id=automation_id, **said)

    ledger = Ledger(mongo)
    for begin in range(0, 60, 20):
        events = [named(number) for number in range(begin, begin + 20)]
        # The first ones again: they have totals of their own; and a user whose budget is kept by a total.
        events += [named(0), named(99, user_id="budgeted"), named(0, quiet), named(1, quiet, user_id=None)]
        await ledger.apply(events)
    models, users = await totals_of(mongo, bot, "model"), await totals_of(mongo, bot, "user")
    assert len(models) <= 5 + 1
    assert len(users) <= 10 + 2
    assert models["made-up-0"] == users["u-0"] == 1 + 3
    assert users["budgeted"] == 3
    assert sum(models.values()) == sum(users.values()) == 66
    assert await totals_of(mongo, bot, "automation") == {bot: 66}
    assert await totals_of(mongo, quiet, "model") == {"made-up-0": 3, "made-up-1": 3}
    assert await totals_of(mongo, quiet, "user") == {"u-0": 3}
    day = NOON.date().isoformat()
    assert (await Rebuild(mongo).check(day, bot)).differences == []
    # People are told of some of the models that have no price, and that there are more.
    alerts = [alert["label"] async for alert in mongo.alerts.find({"automation_id": bot})]
    assert len(alerts) == MOST_UNPRICED + 1
    assert "further models" in alerts

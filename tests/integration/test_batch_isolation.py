"""What MongoDB can't hold fails alone: every writer of batches writes the others, and repeats it no more."""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from pydantic import SecretStr
from pymongo.write_concern import WriteConcern

from contracts import names
from contracts.messages import ConfigChanged, Heartbeat
from infra.mongo import BulkWriteError, Document, Mongo, connect
from infra.mongo_errors import may_pass
from infra.outbox import outgoing, publish_outbox, put_into_outbox
from infra.vault import Vault
from tests.builders import NOON, key_document, usage_recorded
from workers.accounting.booking import Booking
from workers.accounting.heartbeats import Heartbeats
from workers.accounting.leases import Refused
from workers.accounting.ledger import Ledger
from workers.budgets.keeper import BudgetKeeper
from workers.budgets.reservations import Claim as BudgetClaim
from workers.generation.journal import Asked, Call, Claim, Done, Journal, Record
from workers.keys.health import Sample
from workers.keys.holds import Holds
from workers.keys.reservations import load_keys, renew_holds, reserve
from workers.keys.settlements import Settlement
from workers.keys.settler import Settled, Settler

#: One more than 64 bits hold.
TOO_LARGE = 2**63
#: What no number of writers of a batch may take: everything that is tried for ever ends in this error.
PATIENCE_S = 60
CALL = Call(1, "key-1", "Primary", 10, 5)
WORKER = "worker-1"
MODEL = "gpt-4o-mini"


@pytest.fixture(scope="module")
async def mongo(backing: dict[str, str]) -> AsyncIterator[Mongo]:
    name = f"test-{secrets.token_hex(5)}"
    async with connect(backing["KEYWAY_MONGO_URL"], name) as mongo:
        await mongo.ensure_schema()
        yield mongo
        await mongo.database.client.drop_database(name)


def unmeetable(mongo: Mongo, collection: str) -> Any:
    """The collection with a write concern that a replica set of one can't meet, though it writes."""
    return mongo.database[collection].with_options(write_concern=WriteConcern(w=2, wtimeout=50))


def make_journal(mongo: Mongo, worker_id: str = "worker-1") -> Journal:
    return Journal(
        mongo,
        Vault({"k": SecretStr(base64.b64encode(bytes(32)).decode())}),
        worker_id,
        result_ttl_s=60,
        now=time.time,
    )


def asked(bot: str, request_id: str) -> Asked:
    return Asked(bot, request_id, deadline=0.0, digest=b"")


def too_deep(levels: int = 250) -> Document:
    """More levels than a stored document may have."""
    nested: Document = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


async def test_a_claim_that_mongodb_refuses_fails_alone(mongo: Mongo) -> None:
    journal, bot = make_journal(mongo), f"bot-{secrets.token_hex(4)}"
    there = await journal.claim(asked(bot, "there"))
    bad = [f"bad-{n}" for n in range(3)]
    asks: list[tuple[str, Call]] = [(f"r-{n}", CALL) for n in range(20)]
    asks[5:5] = [(bad[0], replace(CALL, second=TOO_LARGE)), ("there", CALL), ("\ud800", CALL)]
    asks[20:20] = [
        (bad[1], replace(CALL, key_alias="\ud800")),
        (bad[2], replace(CALL, number=-TOO_LARGE - 1)),
    ]
    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(
            *(journal.claim(asked(bot, name), call) for name, call in asks), return_exceptions=True
        )
    found = dict(zip([name for name, _ in asks], answers, strict=True))
    # What the first try inserted is this worker's claim, and not another's.
    assert all(isinstance(found[f"r-{n}"], Claim) for n in range(20))
    assert {type(found[name]).__name__ for name in [*bad, "\ud800"]} == {
        "OverflowError",
        "UnicodeEncodeError",
    }
    assert isinstance(there, Claim)
    assert not isinstance(found["there"], Claim | Exception)
    assert await mongo.requests.count_documents({"automation_id": bot}) == 21


async def test_a_call_and_a_result_that_mongodb_refuses_fail_alone(mongo: Mongo) -> None:
    journal, bot = make_journal(mongo), f"bot-{secrets.token_hex(4)}"
    claims = [await journal.claim(asked(bot, f"r-{n}")) for n in range(10)]
    assert all(isinstance(claim, Claim) for claim in claims)
    mine = [claim for claim in claims if isinstance(claim, Claim)]
    calls = [replace(CALL, reserved_tokens=TOO_LARGE if n == 3 else n) for n in range(10)]
    async with asyncio.timeout(PATIENCE_S):
        begun = await asyncio.gather(*map(journal.begin, mine, calls), return_exceptions=True)
    assert [type(answer).__name__ for answer in begun] == [
        "OverflowError" if n == 3 else "bool" for n in range(10)
    ]
    refused: dict[int, Document] = {
        2: {"timings": {"total_ms": TOO_LARGE}},
        4: {"model": "\ud800"},
        # The driver sends these, and the server refuses them.
        5: {"deep": too_deep()},
        7: {"_id": "another"},
    }
    records = [Record(claim, "succeeded", b"{}", [], b"", refused.get(n, {})) for n, claim in enumerate(mine)]
    async with asyncio.timeout(PATIENCE_S):
        kept = await asyncio.gather(*map(journal.record, records), return_exceptions=True)
    assert [n for n, answer in enumerate(kept) if answer is not True] == list(refused)
    assert not any(may_pass(answer) for answer in kept if isinstance(answer, Exception))
    for n, claim in enumerate(mine):
        later = await journal.claim(claim.asked)
        assert isinstance(later, Done) == (n not in refused)
    stored = await mongo.requests.find_one({"_id": mine[6].id})
    assert stored is not None
    assert stored["call"]["reserved_tokens"] == 6


@pytest.mark.parametrize("step", ["claim", "begin", "record"])
async def test_what_is_written_without_its_write_concern_is_not_taken_for_kept(
    mongo: Mongo, step: str
) -> None:
    journal, bot = make_journal(mongo), f"bot-{secrets.token_hex(4)}"
    claim = await journal.claim(asked(bot, "r-1"))
    assert isinstance(claim, Claim)
    kept, fast = mongo.requests, mongo.requests_fast
    mongo.requests = mongo.requests_fast = unmeetable(mongo, "requests")
    steps: dict[str, Callable[[], Awaitable[object]]] = {
        "claim": lambda: journal.claim(asked(bot, "r-2")),
        "begin": lambda: journal.begin(claim, CALL),
        "record": lambda: journal.record(Record(claim, "succeeded", b"{}", [])),
    }
    try:
        with pytest.raises(BulkWriteError) as raised:
            await steps[step]()
    finally:
        mongo.requests, mongo.requests_fast = kept, fast
    assert may_pass(raised.value)
    if step == "record":
        assert await journal.record(Record(claim, "succeeded", b"{}", []))


@pytest.mark.parametrize("kind", ["plain", "alone"])
async def test_a_settlement_that_mongodb_refuses_gives_back_its_reservation_and_harms_no_other(
    mongo: Mongo, kind: str
) -> None:
    keys = []
    for _ in range(2):
        name = secrets.token_hex(4)
        keys.append(
            key_document(_id=f"key-{name}", automation_id=f"bot-{name}", fingerprint=f"fingerprint-{name}")
        )
    await mongo.keys.insert_many(keys)
    views = []
    for key in keys:
        reserved = await reserve(mongo, key["_id"], WORKER, MODEL, [10] * 5)
        assert reserved is not None
        views.append(reserved[1])
    holds = Holds(WORKER, partial(renew_holds, mongo))
    holds.take(WORKER, 10)
    settler = Settler(mongo, holds, view=lambda key: key, learn=lambda _: None, now=time.time)
    # A failure is settled by itself, what is plain for many keys at once.
    sample = Sample(ok=True, latency_ms=5) if kind == "plain" else Sample(ok=False)
    used = [[7, 7, TOO_LARGE, 7, 7], [7] * 5]
    written = [
        settler.submit(
            Settled(view, WORKER, Settlement(view.window[-1].second, 10, tokens, MODEL, sample=sample))
        )
        for view, all_tokens in zip(views, used, strict=True)
        for tokens in all_tokens
    ]
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*written)
        await settler.drain()
    assert holds.calls == 0
    after = [(await load_keys(mongo, key["automation_id"]))[0][0] for key in keys]
    # Of the refused one, what was reserved stands for what was used.
    assert [key.day_tokens for key in after] == [4 * 7 + 10, 5 * 7]
    assert [(key.held_calls, key.held_tokens) for key in after] == [(0, 0), (0, 0)]


async def test_a_spending_that_mongodb_refuses_fails_alone_and_holds_no_budget_for_ever(mongo: Mongo) -> None:
    bot = f"bot-{secrets.token_hex(4)}"
    budget: Document = {
        "_id": f"automation/day/{bot}/{bot}",
        "scope": "automation",
        "automation_id": bot,
        "subject": bot,
        "label": bot,
        "window": "day",
        "limit_nanousd": 10**12,
        "soft_percent": 80,
        "hard": True,
        "period": "",
        "spent_nanousd": 0,
        "held": [],
    }
    await mongo.budgets.insert_one(budget)
    keeper = BudgetKeeper(mongo, WORKER, time.time)
    claims = [BudgetClaim(budget["_id"], "day", WORKER, 0) for _ in range(5)]
    costs = [1, 2, TOO_LARGE, 4, 5]
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(
            *(keeper.settle([claim], cost, time.time()) for claim, cost in zip(claims, costs, strict=True))
        )
        await keeper.close()
    stored = await mongo.budgets.find_one({"_id": budget["_id"]})
    assert stored is not None
    assert stored["spent_nanousd"] == 12


async def test_rows_that_mongodb_refuses_are_refused_alone_and_the_ledger_goes_on(mongo: Mongo) -> None:
    bot = f"bot-{secrets.token_hex(4)}"
    named = partial(usage_recorded, automation_id=bot, key_id=f"key-{bot}", cost_nanousd=1)
    events = [named(event_id=f"r-{n}:1", request_id=f"r-{n}") for n in range(20)]
    most = 2**63 - 1
    # The driver can't encode the first; of the others the server can't add up the totals.
    events[3] = named(event_id="large:1", total_tokens=TOO_LARGE)
    events[8] = named(event_id="sum-1:1", total_tokens=most, key_id="other-1")
    events[13] = named(event_id="sum-2:1", total_tokens=most, key_id="other-2")
    booking = Booking(cast("Any", None), Ledger(mongo), cast("Any", None), cast("Any", None))
    async with asyncio.timeout(PATIENCE_S):
        answers = await booking._apply(events)
    refused = [n for n, answer in enumerate(answers) if isinstance(answer, Refused)]
    assert 3 in refused
    # The automation's own total overflows by the first of the large ones or by the second.
    assert {8, 13} & set(refused)
    assert set(refused) <= {3, 8, 13} | set(range(9, 20))
    rows = {row["_id"] async for row in mongo.usage.find({"automation_id": bot})}
    assert rows == {f"{bot}/{events[n].event_id}" for n in range(20) if n not in refused}


async def test_a_heartbeat_that_mongodb_refuses_is_dropped_alone(mongo: Mongo) -> None:
    bot = f"bot-{secrets.token_hex(4)}"
    heartbeats = Heartbeats(mongo)
    for number in range(5):
        host = "\ud800" if number == 2 else f"h{number}"
        heartbeats.note(bot, Heartbeat.model_construct(version="1", host=host, started_at=NOON, in_flight=0))
    async with asyncio.timeout(PATIENCE_S):
        await heartbeats.write()
    hosts = {one["host"] async for one in mongo.heartbeats.find({"automation_id": bot})}
    assert hosts == {"h0", "h1", "h3", "h4"}


async def test_an_event_that_can_never_be_sent_holds_up_none_behind_it(mongo: Mongo) -> None:
    for number in range(3):
        event = ConfigChanged(automation_id=f"bot-{number}", what="x", actor="cli", occurred_at=NOON)
        await put_into_outbox(mongo, outgoing(names.CONFIG_CHANGED, f"bot-{number}", event))
    sent = []

    async def publish(event: Document) -> None:
        if event["routing_key"].endswith("bot-1"):
            raise ValueError("longer than 255 bytes")
        sent.append(event["routing_key"][-1])

    await publish_outbox(mongo, publish)
    assert sent == ["0", "2"]
    assert await mongo.outbox.count_documents({}) == 0


async def test_a_lease_whose_charge_mongodb_refuses_is_closed_and_the_others_are_charged(
    mongo: Mongo,
) -> None:
    bot = f"bot-{secrets.token_hex(4)}"
    leases = [
        {
            "_id": f"lease-{bot}-{n}",
            "automation_id": bot,
            "key_id": f"key-{bot}",
            "key_alias": "Primary",
            # More than 64 bits hold, once it is priced.
            "tokens": 2**63 - 1 if n == 1 else 100,
            "model": "gpt-4o",
            "status": "open",
            "granted_at": NOON,
            "expires_at": NOON,
            "reports": 0,
            "reported_tokens": 0,
        }
        for n in range(3)
    ]
    await mongo.leases.insert_many(leases)
    async with asyncio.timeout(PATIENCE_S):
        assert await Ledger(mongo).charge_unreported() == 2
        assert await Ledger(mongo).charge_unreported() == 0
    found = {lease["_id"][-1]: lease async for lease in mongo.leases.find({"automation_id": bot})}
    assert {number: lease["status"] for number, lease in found.items()} == {
        "0": "charged",
        "1": "closed",
        "2": "charged",
    }
    assert "OverflowError" in found["1"]["problem"]

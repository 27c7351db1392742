"""What MongoDB can't hold fails alone: every writer of batches writes the others, and repeats it no more."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo.write_concern import WriteConcern

from infra.mongo import BulkWriteError, Document, Mongo, connect
from infra.mongo_errors import may_pass
from infra.vault import Vault
from workers.generation.journal import Call, Claim, Done, Journal, Record

#: One more than 64 bits hold.
TOO_LARGE = 2**63
#: What no number of writers of a batch may take: everything that is tried for ever ends in this error.
PATIENCE_S = 60
CALL = Call(1, "key-1", "Primary", 10, 5)


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
        mongo, Vault({"k": SecretStr(base64.b64encode(bytes(32)).decode())}), worker_id, result_ttl_s=60
    )


def too_deep(levels: int = 250) -> Document:
    """More levels than a stored document may have."""
    nested: Document = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


async def test_a_claim_that_mongodb_refuses_fails_alone(mongo: Mongo) -> None:
    journal, bot = make_journal(mongo), f"bot-{secrets.token_hex(4)}"
    there = await journal.claim(bot, "there")
    bad = [f"bad-{n}" for n in range(3)]
    asks: list[tuple[str, Call]] = [(f"r-{n}", CALL) for n in range(20)]
    asks[5:5] = [(bad[0], replace(CALL, second=TOO_LARGE)), ("there", CALL), ("\ud800", CALL)]
    asks[20:20] = [
        (bad[1], replace(CALL, key_alias="\ud800")),
        (bad[2], replace(CALL, number=-TOO_LARGE - 1)),
    ]
    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(
            *(journal.claim(bot, name, call) for name, call in asks), return_exceptions=True
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
    claims = [await journal.claim(bot, f"r-{n}") for n in range(10)]
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
        later = await journal.claim(bot, claim.request_id)
        assert isinstance(later, Done) == (n not in refused)
    stored = await mongo.requests.find_one({"_id": mine[6].id})
    assert stored is not None
    assert stored["call"]["reserved_tokens"] == 6


@pytest.mark.parametrize("step", ["claim", "begin", "record"])
async def test_what_is_written_without_its_write_concern_is_not_taken_for_kept(
    mongo: Mongo, step: str
) -> None:
    journal, bot = make_journal(mongo), f"bot-{secrets.token_hex(4)}"
    claim = await journal.claim(bot, "r-1")
    assert isinstance(claim, Claim)
    kept, fast = mongo.requests, mongo.requests_fast
    mongo.requests = mongo.requests_fast = unmeetable(mongo, "requests")
    steps: dict[str, Callable[[], Awaitable[object]]] = {
        "claim": lambda: journal.claim(bot, "r-2"),
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

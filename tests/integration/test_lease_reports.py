"""What is used of leased keys is in the books once, as reported, or at the estimate; and nobody else's."""

import json
import secrets
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.messages import GenerationResult
from tests.harness import World, eventually
from tests.lessee import (
    add_bot,
    assert_books_are_even,
    call,
    counted,
    dead_letter,
    document,
    has_status,
    let_it_end,
    signed_in,
    tokens_of,
)


async def test_a_report_counts_once_though_it_is_published_twice(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        lease = await bot.lease(model="gpt-4o-mini", estimated_tokens=700)
        used = tokens_of(await call(leasing, lease))
        for _ in range(3):
            await bot.report(lease, "r-1", **used)
        await bot.report(lease, "r-2", outcome="rate_limited")
        rows = await leasing.accounted(name, 2)
        assert sorted(row["event_id"] for row in rows) == [f"{lease.lease_id}:r-{n}" for n in (1, 2)]
        lease_document = await document(leasing, lease)
        assert (lease_document["reports"], lease_document["reported_tokens"]) == (2, used["total_tokens"])
    await assert_books_are_even(leasing, name)

    async def is_settled() -> bool:
        # After the transaction of the ledger's row.
        return (await counted(leasing, name))[3] == used["total_tokens"]

    await eventually(is_settled, "what was used in place of the estimate")


async def test_nobody_books_on_anothers_lease_or_in_anothers_name(leasing: World) -> None:
    name, thief = await add_bot(leasing), await add_bot(leasing)
    key_id = await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot, signed_in(leasing, thief) as other:
        lease = await bot.lease()
        await other.report(lease, (mark := secrets.token_hex(8)), total_tokens=10_000)
        assert await dead_letter(leasing, mark) == f"{thief} has no such lease"
        forged = {
            "event_id": (mark := secrets.token_hex(8)),
            "request_id": "r-1",
            "automation_id": name,
            "key_id": key_id,
            "key_alias": "Primary",
            "path": "/moderations",
            "model": "gpt-4o-mini",
            "outcome": "auth_failed",
            "cost_nanousd": 10**15,
            "price_known": True,
            "latency_ms": 1,
            "reserved_tokens": 0,
            "occurred_at": datetime.now(UTC).isoformat(),
        }
        await other.tell("usage.recorded.v1", forged)
        assert "does not go with routing key" in await dead_letter(leasing, mark)
    assert await leasing.ledger(name) == []
    assert (await leasing.key(name, "Primary"))["status"] == "active"
    assert (await document(leasing, lease))["status"] == "open"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"total_tokens": 10**30}, "expected at most"),
        ({"prompt_tokens": 10**9}, "expected at most"),
        ({"model": "m" * 300}, "report_id and model: expected"),
        ({"outcome": "splendid"}, "outcome: "),
        ({"total_tokens": -1}, "total_tokens: "),
    ],
)
async def test_a_report_that_can_not_be_true_is_dead_lettered_and_stops_nobody(
    leasing: World, said: dict[str, Any], reason: str
) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        lease = await bot.lease()
        await bot.report(lease, (mark := secrets.token_hex(8)), **said)
        assert (await dead_letter(leasing, mark)).startswith(reason)
        await bot.report(lease, "r-2", prompt_tokens=1, completion_tokens=2)
        (row,) = await leasing.accounted(name, 1)
    assert row["total_tokens"] == 3


async def test_what_an_automation_reports_of_a_key_has_the_provider_asked_and_changes_no_status_by_itself(
    leasing: World,
) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        lease = await bot.lease()
        await bot.report(lease, "r-1", outcome="auth_failed")
        await bot.report(lease, "r-2", outcome="quota_exhausted")

        async def asked() -> bool:
            return any(call["path"] == "/models" for call in await leasing.journal(name))

        await eventually(asked, "the provider is asked whether it takes the key")
        await leasing.accounted(name, 2)
        assert (await leasing.key(name, "Primary"))["status"] == "active"
        await leasing.script(name, "Primary", invalid=True)
        await bot.report(lease, "r-3", outcome="auth_failed")

        async def stopped() -> bool:
            return bool((await leasing.key(name, "Primary"))["status"] == "error")

        await eventually(stopped, "a key that the provider refuses is in error")


async def test_an_unreported_lease_is_charged_at_its_estimate_once_and_marked_so(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        lease = await bot.lease(model="gpt-4o-mini", estimated_tokens=700)
        await let_it_end(leasing, lease)
        (row,) = await leasing.accounted(name, 1)
        assert (row["source"], row["outcome"], row["tokens_estimated"]) == ("lease", "ambiguous", True)
        assert (row["total_tokens"], row["request_id"]) == (700, lease.lease_id)
        assert row["cost_nanousd"] > 0
        await has_status(leasing, lease, "charged")
        await bot.report(lease, (mark := secrets.token_hex(8)), total_tokens=5)
        assert "charged at its estimate" in await dead_letter(leasing, mark)
    assert len(await leasing.ledger(name)) == 1

    async def ended() -> bool:
        _, tokens, in_flight, day = await counted(leasing, name)
        return (tokens, in_flight, day) == (0, 0, 700)

    await eventually(ended, "it counts in the day alone")
    await assert_books_are_even(leasing, name)


@pytest.mark.parametrize("how", ["disabled", "removed"])
async def test_the_leases_of_a_key_that_a_person_stops_are_revoked_and_charged_all_the_same(
    leasing: World, how: str
) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        lease = await bot.lease("m-1", estimated_tokens=700)
        if how == "disabled":
            await leasing.keys.set_status(name, "Primary", "disabled", "test")
        else:
            await leasing.keys.remove(name, "Primary")
        await has_status(leasing, lease, "revoked")
        again = await bot.ask("m-1")
        assert isinstance(again, GenerationResult)
        assert again.error is not None
        assert again.error.code == "no_usable_key"
        status, stdout, _ = await leasing.cli("leases", "list", "--automation", name, "--json")
        assert status == 0
        (listed,) = json.loads(stdout)
        assert (listed["lease_id"], listed["status"]) == (lease.lease_id, "revoked")
        assert listed["revoked_at"] is not None
    await let_it_end(leasing, lease)
    (row,) = await leasing.accounted(name, 1)
    assert row["total_tokens"] == 700


async def test_leases_are_listed_for_people_with_who_has_what_until_when(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        lease = await bot.lease(estimated_tokens=700)
        status, stdout, _ = await leasing.cli("leases", "list", "--automation", name, COLUMNS="200")
        assert status == 0
        for text in (f"{name}/Primary", lease.lease_id, "open", "700"):
            assert text in stdout
        await bot.report(lease, "r-1", total_tokens=12)
        await has_status(leasing, lease, "reported")
        _, stdout, _ = await leasing.cli("leases", "list", "--json", "--automation", name)
        (listed,) = json.loads(stdout)
        assert (listed["status"], listed["tokens"], listed["reported_tokens"]) == ("reported", 700, 12)

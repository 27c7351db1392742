"""Direct keys: an automation calls the provider itself, within the same limits."""

import asyncio
import base64
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.errors import InvalidRequestError, KeysExhaustedError
from contracts.messages import GenerationResult, KeyLease
from contracts.sealing import Recipient
from tests.harness import PATIENCE_S, World, eventually
from tests.lessee import (
    add_bot,
    assert_books_are_even,
    call,
    counted,
    dead_letter,
    document,
    let_it_end,
    signed_in,
    tokens_of,
)
from workers.keys.key import Limits


async def test_a_leased_key_serves_at_the_provider_and_its_use_is_in_the_books(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary", limits=Limits(10, 100_000, 1_000_000, 5))
    async with signed_in(leasing, name) as bot:
        lease = await bot.lease(model="gpt-4o-mini", estimated_tokens=700, ttl_s=60)
        assert (lease.key_alias, lease.requests, lease.tokens) == ("Primary", 1, 700)
        assert lease.sealed_api_key is None
        assert timedelta(seconds=30) < lease.expires_at - datetime.now(UTC) <= timedelta(seconds=60)
        assert await counted(leasing, name) == (1, 700, 1, 700)
        used = tokens_of(await call(leasing, lease))
        await bot.report(lease, "r-1", **used)
        (row,) = await leasing.accounted(name, 1)
    assert {field: row[field] for field in used} == used
    assert (row["source"], row["outcome"], row["tokens_estimated"]) == ("lease", "ok", False)
    assert (row["event_id"], row["request_id"]) == (f"{lease.lease_id}:r-1", lease.lease_id)
    assert (row["key_alias"], row["model"], row["reserved_tokens"]) == ("Primary", "gpt-4o-mini", 700)
    assert row["cost_nanousd"] > 0
    total = used["total_tokens"]

    async def corrected() -> bool:
        return await counted(leasing, name) == (1, total, 0, total)

    await eventually(corrected, "what was used in the place of the estimate")
    assert (await document(leasing, lease))["status"] == "reported"
    await assert_books_are_even(leasing, name)


async def test_a_lease_and_calls_share_the_limits_of_a_key(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary", limits=Limits(requests_per_minute=2))
    async with signed_in(leasing, name) as bot, leasing.client(name) as keyway:
        await bot.lease()
        assert (await keyway.generate("/moderations", input="hello")).status == "succeeded"
        result = await bot.ask()
        assert isinstance(result, GenerationResult)
        assert result.error is not None
        assert result.error.code == "deadline_exceeded"
        assert result.error.retry_at is not None
        assert result.error.retry_at > datetime.now(UTC)
    assert len(await leasing.journal(name)) == 1


async def test_a_lease_counts_in_every_minute_until_it_is_over_since_its_call_may_come_at_any_time(
    leasing: World,
) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary", limits=Limits(1, None, None, None))
    async with signed_in(leasing, name) as bot:
        await bot.lease(ttl_s=600)
        # As if more than a minute had gone by since the grant.
        long_ago: dict[str, Any] = {"$set": {"window": []}}
        await leasing.mongo.keys.update_one({"automation_id": name}, long_ago)
        assert (await bot.refusal())[0] == "deadline_exceeded"


async def test_leased_tokens_count_in_the_day_and_in_flight_calls_end_with_the_report(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary", limits=Limits(tokens_per_day=1000, max_in_flight=1))
    async with signed_in(leasing, name) as bot, leasing.client(name) as keyway:
        lease = await bot.lease(estimated_tokens=900)
        assert (await bot.refusal(estimated_tokens=50))[0] == "deadline_exceeded"
        await bot.report(lease, "r-1", prompt_tokens=990, total_tokens=990)
        await leasing.accounted(name, 1)
        with pytest.raises(KeysExhaustedError):
            await keyway.generate("/embeddings", model="text-embedding-3-small", input="hello " * 100)


async def test_an_automations_own_cap_on_calls_in_flight_counts_its_leases(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.provisioner.change(name, {"max_in_flight": 1}, actor="test")
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        lease = await bot.lease()
        assert (await bot.refusal())[0] == "deadline_exceeded"
        await bot.report(lease, "r-1")
        await leasing.accounted(name, 1)
        await bot.lease()


async def test_a_key_is_sealed_to_its_recipient_and_opens_for_nobody_else(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    mine, other = Recipient(), Recipient()
    async with signed_in(leasing, name) as bot:
        lease = await bot.lease(recipient_public_key=mine.public_key)
    assert lease.api_key is None
    assert lease.sealed_api_key is not None
    opened = mine.open(lease.sealed_api_key, lease.lease_id)
    assert opened == leasing.api_keys[-1]
    await call(leasing, lease, opened)
    for recipient, lease_id in ((other, lease.lease_id), (mine, "lease-of-another")):
        with pytest.raises(ValueError, match="can't be opened"):
            recipient.open(lease.sealed_api_key, lease_id)


async def test_the_client_leases_a_key_calls_with_it_and_reports(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    async with leasing.client(name) as keyway:
        async with await keyway.lease(model="gpt-4o-mini", estimated_tokens=700) as lease:
            assert lease.api_key.get_secret_value() == leasing.api_keys[-1]
            await lease.report(model="gpt-4o-mini", prompt_tokens=19, completion_tokens=27)
        (row,) = await leasing.accounted(name, 1)
        assert (row["request_id"], row["total_tokens"]) == (lease.lease_id, 46)
        await leasing.provisioner.change(name, {"allow_leases": False}, actor="test")
        with pytest.raises(InvalidRequestError, match="--allow-leases"):
            await keyway.lease()


async def test_direct_keys_are_off_until_an_operator_turns_them_on_and_off_again(leasing: World) -> None:
    name = await leasing.add_automation()
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        code, message = await bot.refusal()
        assert code == "invalid_request"
        assert message.endswith(f"turns them on with `keyway automations set {name} --allow-leases`")
        assert await counted(leasing, name) == (0, 0, 0, 0)
        status, _, stderr = await leasing.cli("automations", "set", name, "--allow-leases")
        assert status == 0, stderr
        await bot.lease()
        await leasing.cli("automations", "set", name, "--no-allow-leases")
        assert (await bot.refusal())[0] == "invalid_request"
        await leasing.cli("automations", "set", name, "--allow-leases")
        await leasing.cli("automations", "disable", name)
        assert (await bot.refusal())[0] == "automation_disabled"


async def test_an_automation_without_usable_keys_is_told_so(leasing: World) -> None:
    without, disabled = await add_bot(leasing), await add_bot(leasing)
    await leasing.add_key(disabled, "Primary")
    await leasing.keys.set_status(disabled, "Primary", "disabled", "test")
    for name, expected in ((without, "no_keys"), (disabled, "no_usable_key")):
        async with signed_in(leasing, name) as bot:
            assert (await bot.refusal())[0] == expected


async def test_a_key_that_is_still_to_show_that_it_works_is_not_lent_while_there_is_another(
    leasing: World,
) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    on_trial: dict[str, Any] = {"$set": {"health.failures": 5}}
    await leasing.mongo.keys.update_one({"automation_id": name}, on_trial)
    async with signed_in(leasing, name) as bot:
        assert (await bot.refusal())[0] == "provider_unavailable"
        await leasing.add_key(name, "Backup")
        leases = [await bot.lease() for _ in range(3)]
    assert {lease.key_alias for lease in leases} == {"Backup"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"recipient_public_key": "no key"}, "recipient_public_key: expected the base64"),
        ({"recipient_public_key": base64.b64encode(bytes(32)).decode()}, "recipient_public_key: expected"),
        ({"recipient_public_key": "AAAA"}, "recipient_public_key: expected base64 of 32 bytes, not of 3"),
        ({"ttl_s": 0}, "ttl_s: "),
        ({"modle": "gpt-4o-mini"}, "modle: Extra inputs"),
    ],
)
async def test_a_wrong_request_is_answered_and_dead_lettered(
    leasing: World, body: dict[str, Any], reason: str
) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    mark = secrets.token_hex(8)
    async with signed_in(leasing, name) as bot:
        code, message = await bot.refusal(model=mark, **body)
    assert code == "invalid_request"
    assert message.startswith(reason)
    assert (await dead_letter(leasing, mark)).startswith(f"invalid_request: {reason}")
    assert await leasing.mongo.leases.count_documents({"automation_id": name}) == 0


@pytest.mark.parametrize("reply_to", [None, "replies.another-bot", "requests.another-bot"])
async def test_without_an_address_of_the_automations_own_nothing_is_lent(
    leasing: World, reply_to: str | None
) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    mark = secrets.token_hex(8)
    async with signed_in(leasing, name) as bot:
        await bot.send({"model": mark}, reply_to=reply_to)
        assert "reply_to" in await dead_letter(leasing, mark)
    assert await leasing.mongo.leases.count_documents({"automation_id": name}) == 0


async def test_a_lease_goes_to_a_queue_of_the_automation_too_and_is_never_persistent(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        queue = await bot.channel.declare_queue(f"replies.{name}.keys", exclusive=True)
        await bot.send({}, reply_to=queue.name, message_id="m-1", correlation_id="c-1")
        replies = queue.iterator(timeout=PATIENCE_S)
        reply = await anext(replies)
        assert (reply.correlation_id, reply.message_id, reply.delivery_mode) == ("c-1", "m-1", 1)
        assert reply.expiration
        assert KeyLease.model_validate_json(reply.body).key_alias == "Primary"
        await replies.close()


async def test_asked_twice_with_one_id_an_automation_has_one_lease(leasing: World) -> None:
    name = await add_bot(leasing)
    await leasing.add_key(name, "Primary")
    async with signed_in(leasing, name) as bot:
        first, second = await asyncio.gather(*(bot.lease("m-1", estimated_tokens=100) for _ in range(2)))
        assert first == second
        mine = Recipient()
        third = await bot.lease("m-1", recipient_public_key=mine.public_key)
        assert third.lease_id == first.lease_id
        assert third.sealed_api_key is not None
        assert mine.open(third.sealed_api_key, first.lease_id) == leasing.api_keys[-1]

        async def is_one() -> bool:
            return (await counted(leasing, name))[1:] == (100, 1, 100)

        # What the second request reserved is given back beside its answer.
        await eventually(is_one, "one lease that counts, and nothing beside it")
        await let_it_end(leasing, first)
        fourth = await bot.lease("m-1")
        assert fourth.lease_id != first.lease_id

"""Direct keys: an automation calls the provider itself, within the same limits and in the same books."""

import asyncio
import base64
import json
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import bson
import pytest
from aio_pika import ExchangeType, Message, connect
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from contracts.errors import InvalidRequestError, KeysExhaustedError
from contracts.messages import GenerationResult, KeyLease
from contracts.sealing import Recipient
from infra.mongo import Document
from tests.harness import World, eventually
from workers.keys.key import Limits

DIRECT = "amq.rabbitmq.reply-to"


@dataclass
class Bot:
    """An automation that speaks plain AMQP, signed in as itself."""

    name: str
    channel: AbstractChannel
    replies: dict[str, "asyncio.Future[AbstractIncomingMessage]"] = field(default_factory=dict)

    async def ask(self, message_id: str | None = None, **body: Any) -> KeyLease | GenerationResult:
        """Ask for a key with direct reply-to, and read what is answered."""
        correlation_id = secrets.token_hex(8)
        waiting = self.replies[correlation_id] = asyncio.get_running_loop().create_future()
        await self.send(
            body, reply_to=DIRECT, message_id=message_id or correlation_id, correlation_id=correlation_id
        )
        async with asyncio.timeout(40):
            reply = await waiting
        if reply.type == "key.lease.v1":
            return KeyLease.model_validate_json(reply.body)
        assert reply.type == "generation.result.v1"
        return GenerationResult.model_validate_json(reply.body)

    async def lease(self, message_id: str | None = None, **body: Any) -> KeyLease:
        lease = await self.ask(message_id, **body)
        assert isinstance(lease, KeyLease), lease
        return lease

    async def refusal(self, **body: Any) -> tuple[str, str]:
        """The code and the message of a request that fails."""
        result = await self.ask(**body)
        assert isinstance(result, GenerationResult), result
        assert result.status == "failed"
        assert result.error is not None
        return result.error.code, result.error.message

    async def send(self, body: dict[str, Any], **properties: Any) -> None:
        exchange = await self.channel.get_exchange("requests", ensure=False)
        message = Message(json.dumps(body).encode(), type="key.lease.request.v1", **properties)
        await exchange.publish(message, f"leases.{self.name}")

    async def report(self, lease: KeyLease, report_id: str, **said: Any) -> None:
        body = {
            "lease_id": lease.lease_id,
            "report_id": report_id,
            "model": "gpt-4o-mini",
            "outcome": "ok",
            **said,
        }
        await self.tell("usage.reported.v1", body)

    async def tell(self, message_type: str, body: dict[str, Any]) -> None:
        exchange = await self.channel.get_exchange("events", ensure=False)
        message = Message(json.dumps(body).encode(), type=message_type)
        await exchange.publish(message, f"usage.reported.{self.name}")


@asynccontextmanager
async def signed_in(world: World, name: str) -> AsyncIterator[Bot]:
    async with await connect(world.url_of(name)) as connection:
        bot = Bot(name, await connection.channel())
        direct = await bot.channel.get_queue(DIRECT, ensure=False)

        async def take(message: AbstractIncomingMessage) -> None:
            # A worker that is killed before it acknowledges has its answers repeated.
            if (waiting := bot.replies.pop(message.correlation_id or "", None)) is not None:
                waiting.set_result(message)

        await direct.consume(take, no_ack=True)
        yield bot


async def add_bot(world: World) -> str:
    """An automation that may lease keys."""
    name = await world.add_automation()
    await world.provisioner.change(name, {"allow_leases": True}, actor="test")
    return name


async def call(world: World, lease: KeyLease, api_key: str | None = None) -> dict[str, Any]:
    """Call the provider with a leased key; its answer."""
    if api_key is None:
        assert lease.api_key is not None
        api_key = lease.api_key.get_secret_value()
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    async with world.simulator.session.post(
        f"{lease.base_url}/chat/completions", json=body, headers={"Authorization": f"Bearer {api_key}"}
    ) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


def tokens_of(answer: dict[str, Any]) -> dict[str, int]:
    usage = answer["usage"]
    return {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


async def document(world: World, lease: KeyLease) -> Document:
    found = await world.mongo.leases.find_one({"_id": lease.lease_id})
    assert found is not None
    return found


async def has_status(world: World, lease: KeyLease, status: str) -> None:
    async def there() -> bool:
        return bool((await document(world, lease))["status"] == status)

    await eventually(there, f"{lease.lease_id} is {status}")


async def key_document(world: World, bot: str) -> Document:
    found = await world.mongo.keys.find_one({"automation_id": bot})
    assert found is not None
    return found


async def counted(world: World, bot: str) -> tuple[int, int, int, int]:
    """What counts of a bot's key: requests and tokens of its minute, calls in flight, tokens of its day."""
    key = await key_document(world, bot)
    leased, window = key.get("leased", []), key.get("window", [])
    requests = sum(entry["n"] for entry in (*window, *leased))
    tokens = sum(entry["t"] for entry in (*window, *leased))
    in_flight = sum(hold["n"] for hold in (*key.get("held", []), *leased))
    day = key.get("day_tokens", 0) + sum(hold["t"] for hold in (*key.get("held", []), *leased))
    return requests, tokens, in_flight, day


async def let_it_end(world: World, lease: KeyLease) -> None:
    """Let a lease's end, and the time for reports after it, be over."""
    past = datetime.now(UTC) - timedelta(minutes=10)
    await world.mongo.leases.update_one({"_id": lease.lease_id}, {"$set": {"expires_at": past}})


async def dead_letter(world: World, text: str) -> str:
    """The reason of the dead letter whose body has a text."""
    reasons: list[str] = []

    async def dead() -> bool:
        async with world.connection.channel() as reading:
            queue = await reading.get_queue("dead", ensure=False)
            while (letter := await queue.get(fail=False)) is not None:
                if text.encode() in letter.body:
                    reasons.append(str(letter.headers["x-keyway-reason"]))
                    await letter.ack()
                    return True
        return False

    await eventually(dead, f"a dead letter with {text}")
    return reasons[0]


async def assert_books_are_even(world: World, bot: str) -> None:
    for dimension in ("key", "automation", "model"):
        await world.assert_totals_equal_ledger(bot, dimension)


@pytest.fixture(scope="module")
async def leasing(shared: World) -> World:
    """The shared Keyway, which lends keys too."""
    await shared.start_leasing()
    return shared


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
        long_ago: Document = {"$set": {"window": []}}
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
    on_trial: Document = {"$set": {"health.failures": 5}}
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
        replies = queue.iterator(timeout=20)
        reply = await anext(replies)
        assert (reply.correlation_id, reply.message_id, reply.delivery_mode) == ("c-1", "m-1", 1)
        assert reply.expiration
        assert KeyLease.model_validate_json(reply.body).key_alias == "Primary"
        await replies.close()


@pytest.mark.parametrize("address", ["queue", "direct", "made up"])
async def test_a_lease_that_can_not_be_delivered_is_closed_without_a_charge(
    world: World, address: str
) -> None:
    name = await add_bot(world)
    await world.add_key(name, "Primary")
    mark = secrets.token_hex(8)
    reply_to = {"queue": f"replies.{name}.gone", "direct": DIRECT, "made up": f"{DIRECT}.g1h3==.xyz"}[address]
    async with signed_in(world, name) as bot:
        await bot.send({"model": mark}, reply_to=reply_to)
    # Who asked is gone before there is an answer.
    await world.start_leasing()
    await world.start_accounting()

    async def closed() -> bool:
        query = {"automation_id": name, "status": "closed", "model": mark}
        return await world.mongo.leases.count_documents(query) == 1

    await eventually(closed, "the lease that nobody got is closed", within_s=60)

    async def free() -> bool:
        return await counted(world, name) == (0, 0, 0, 0)

    await eventually(free, "nothing of it counts")
    past = {"$set": {"expires_at": datetime.now(UTC) - timedelta(minutes=10)}}
    await world.mongo.leases.update_many({"automation_id": name}, past)
    async with signed_in(world, name) as bot:
        lease = await bot.lease()
        await bot.report(lease, "r-1", total_tokens=3)
        (row,) = await world.accounted(name, 1)
    assert row["request_id"] == lease.lease_id


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
        _, tokens, in_flight, day = await counted(leasing, name)
        assert (tokens, in_flight, day) == (100, 1, 100)
        await let_it_end(leasing, first)
        fourth = await bot.lease("m-1")
        assert fourth.lease_id != first.lease_id


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
    assert (await counted(leasing, name))[3] == used["total_tokens"]


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


async def test_a_lease_outlives_its_worker_and_is_charged_once_though_accounting_is_killed_too(
    world: World,
) -> None:
    name = await add_bot(world)
    await world.add_key(name, "Primary", limits=Limits(requests_per_minute=1))
    worker = await world.start_leasing()
    async with signed_in(world, name) as bot:
        lease = await bot.lease("m-1", model="gpt-4o-mini", estimated_tokens=700)
        await worker.stop(signal.SIGKILL)
        await let_it_end(world, lease)
        for _ in range(3):
            accounting = await world.start_accounting()
            await accounting.stop(signal.SIGKILL)
        await asyncio.gather(world.start_accounting(), world.start_accounting())
        await has_status(world, lease, "charged")
        await world.start_leasing()
        assert (await bot.lease("m-2", ttl_s=1)).lease_id != lease.lease_id
    (row,) = await world.accounted(name, 1)
    assert row["total_tokens"] == 700
    await assert_books_are_even(world, name)


async def test_a_request_that_is_delivered_again_when_its_lease_is_over_gets_no_second_one(
    world: World,
) -> None:
    name = await add_bot(world)
    await world.add_key(name, "Primary")
    await world.start_leasing()
    async with signed_in(world, name) as bot:
        lease = await bot.lease("m-1")
        await let_it_end(world, lease)
        # As a worker that dies before it acknowledges leaves it.
        async with world.connection.channel() as channel:
            queue = await channel.get_queue(f"leases.{name}", ensure=False)
            for service in world.services:
                await service.stop()
            await bot.send({}, reply_to=DIRECT, message_id="m-1", correlation_id="c-1")
            bot.replies["c-1"] = asyncio.get_running_loop().create_future()
            repeated = bot.replies["c-1"]
            delivery = await queue.get(timeout=10)
            await delivery.nack(requeue=True)
        await world.start_leasing()
        async with asyncio.timeout(40):
            reply = await repeated
        result = GenerationResult.model_validate_json(reply.body)
        assert result.error is not None
        assert result.error.code == "deadline_exceeded"
    assert await world.mongo.leases.count_documents({"automation_id": name}) == 1


async def test_a_lease_of_a_killed_worker_still_counts_and_is_given_again(world: World) -> None:
    name = await add_bot(world)
    await world.add_key(name, "Primary", limits=Limits(max_in_flight=1))
    worker = await world.start_leasing()
    async with signed_in(world, name) as bot:
        lease = await bot.lease("m-1", estimated_tokens=700)
        await worker.stop(signal.SIGKILL)
        # What the worker itself held would have lapsed by now.
        gone: Document = {"$set": {"held": []}}
        await world.mongo.keys.update_one({"automation_id": name}, gone)
        await world.start_leasing()
        assert (await bot.refusal())[0] == "deadline_exceeded"
        assert (await bot.lease("m-1")).lease_id == lease.lease_id
        assert (await counted(world, name))[2] == 1


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


async def test_new_automations_are_served_without_a_restart_and_after_a_lost_connection(world: World) -> None:
    await world.start_accounting()
    await world.start_leasing()
    name = await add_bot(world)
    await world.add_key(name, "Primary")
    async with signed_in(world, name) as bot:
        first = await bot.lease()
        ours: list[str] = []

        async def are_listed() -> bool:
            listed = await world.admin.call("GET", "vhosts/{vhost}/connections")
            named = ("keyway leasing ", "keyway leases ")
            ours[:] = [c["name"] for c in listed if c.get("user_provided_name", "").startswith(named)]
            return len(ours) == 2

        await eventually(are_listed, "the worker's connections in the management API")
        for connection in ours:
            await world.admin.call("DELETE", f"connections/{quote(connection, safe='')}")
        assert (await bot.lease()).lease_id != first.lease_id


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


async def test_a_leased_key_is_in_no_collection_log_or_message_but_the_lease(world: World) -> None:
    name = await add_bot(world)
    await world.add_key(name, "Primary")
    await world.start_accounting()
    await world.start("leasing", ready="leasing_ready", KEYWAY_LOG_LEVEL="debug")
    heard: list[bytes] = []
    async with world.connection.channel() as channel:
        tap = await channel.declare_queue(exclusive=True)
        for exchange in ("requests", "events", "dead"):
            await tap.bind(await channel.declare_exchange(exchange, ExchangeType.TOPIC, durable=True), "#")

        async def hear(message: AbstractIncomingMessage) -> None:
            heard.append(message.body + str(message.headers).encode())

        await tap.consume(hear, no_ack=True)
        async with signed_in(world, name) as bot:
            lease = await bot.lease("m-1")
            assert lease.api_key is not None
            assert lease.api_key.get_secret_value() == world.api_keys[0]
            await bot.send({}, reply_to=f"replies.{name}.gone")
            await bot.send({"mark": (mark := secrets.token_hex(8))}, reply_to=DIRECT)
            await bot.report(lease, "r-1", total_tokens=3)
            await world.accounted(name, 1)
            await dead_letter(world, mark)
        _, stdout, stderr = await world.cli("leases", "list", "--json")
    places = {str(path): path.read_bytes() for path in world.folder.rglob("*") if path.is_file()}
    places |= {"messages": b"\n".join(heard), "commands": (stdout + stderr).encode()}
    for collection in await world.mongo.database.list_collection_names():
        documents = world.mongo.database[collection].find()
        places[collection] = b"".join([bson.encode(d) async for d in documents])
    assert len(places["leases"]) > 100
    for place, content in places.items():
        assert world.api_keys[0].encode() not in content, f"the key is in {place}"

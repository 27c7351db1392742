"""Direct keys as the client has them: asked for, unsealed, reported on; and what goes wrong."""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aio_pika.abc import AbstractIncomingMessage
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from contracts import Keyway, Lease, PublishError, SyncKeyway, names
from contracts.errors import InvalidReplyError, InvalidRequestError, KeywayError, NoUsableKeyError
from contracts.messages import KeyLeaseRequest, UsageReported
from contracts.sealing import SUITE, info
from tests.harness import PATIENCE_S, World
from tests.responder import Asked, Responder, failure

API_KEY = "sk-lent"
LEASE = {
    "lease_id": "l-1",
    "key_alias": "Primary",
    "base_url": "https://provider.test/v1",
    "expires_at": "2126-01-01T00:00:00Z",
    "requests": 10,
    "tokens": 2000,
}


@pytest.fixture
async def bot(unserved: World) -> str:
    """An automation whose direct key requests nobody but the test takes."""
    return await unserved.add_automation()


@asynccontextmanager
async def lender(world: World, bot: str) -> AsyncIterator[Responder]:
    async with Responder(world, bot, queue=names.lease_queue(bot)) as responder:
        yield responder


def request_of(asked: Asked) -> KeyLeaseRequest:
    assert asked.message.type == names.KEY_LEASE_REQUEST
    return KeyLeaseRequest.model_validate_json(asked.message.body)


def sealed_for(asked: Asked, lease_id: str = "l-1") -> str:
    public_key = base64.b64decode(request_of(asked).recipient_public_key or "")
    key = X25519PublicKey.from_public_bytes(public_key)
    return base64.b64encode(SUITE.encrypt(API_KEY.encode(), key, info(lease_id))).decode()


async def lend(asked: Asked, **key: Any) -> None:
    await asked.send(names.KEY_LEASE, json.dumps({**LEASE, **key}).encode())


async def test_a_key_is_asked_for_and_comes_sealed(unserved: World, bot: str) -> None:
    async with lender(unserved, bot) as responder, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(keyway.lease("gpt-4o", estimated_tokens=500, ttl_s=60))
        asked = await responder.take()
        request = request_of(asked)
        assert (request.model, request.estimated_tokens, request.ttl_s) == ("gpt-4o", 500, 60)
        await lend(asked, sealed_api_key=sealed_for(asked))
        async with await asking as lease:
            assert lease.api_key.get_secret_value() == API_KEY
            assert (lease.lease_id, lease.key_alias, lease.base_url) == (
                "l-1",
                "Primary",
                "https://provider.test/v1",
            )
            assert (lease.expires_at.year, lease.requests, lease.tokens) == (2126, 10, 2000)
            assert API_KEY not in f"{lease!r} {vars(lease)!r}"
        with pytest.raises(KeywayError, match="lease l-1 is closed"):
            _ = lease.api_key


async def test_each_lease_has_a_recipient_of_its_own(unserved: World, bot: str) -> None:
    async with lender(unserved, bot) as responder, unserved.client(bot) as keyway:
        keys = set()
        for _ in range(2):
            asking = asyncio.ensure_future(keyway.lease())
            asked = await responder.take()
            assert (request_of(asked).model, request_of(asked).ttl_s) == (None, 300)
            keys.add(request_of(asked).recipient_public_key)
            await lend(asked, sealed_api_key=sealed_for(asked))
            await asking
        assert len(keys) == 2
        assert None not in keys


async def test_without_cryptography_a_key_comes_as_it_is(
    unserved: World, bot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "contracts.sealing", None)
    async with lender(unserved, bot) as responder, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(keyway.lease())
        asked = await responder.take()
        assert request_of(asked).recipient_public_key is None
        await lend(asked, api_key=API_KEY)
        assert (await asking).api_key.get_secret_value() == API_KEY


async def test_a_refusal_is_the_error_of_its_code(unserved: World, bot: str) -> None:
    async with lender(unserved, bot) as responder, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(keyway.lease())
        await (await responder.take()).result(**failure("no_usable_key"))
        with pytest.raises(NoUsableKeyError, match="what happened"):
            await asking


@pytest.mark.parametrize("kind", ["no key", "another lease's", "not base64", "a field missing", "a result"])
async def test_an_answer_that_is_no_lease_is_an_error_without_the_key(
    unserved: World, bot: str, kind: str
) -> None:
    async with lender(unserved, bot) as responder, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(keyway.lease())
        asked = await responder.take()
        if kind == "no key":
            await lend(asked)
        elif kind == "another lease's":
            await lend(asked, sealed_api_key=sealed_for(asked, "l-2"))
        elif kind == "not base64":
            await lend(asked, sealed_api_key="?")
        elif kind == "a field missing":
            await lend(asked, api_key=API_KEY, base_url=None)
        else:
            await asked.result()
        with pytest.raises(InvalidReplyError) as raised:
            await asking
        assert API_KEY not in f"{raised.value!r} {raised.value.body!r} {raised.value.__cause__!r}"


async def test_a_lease_is_asked_for_again_when_the_connection_is_lost(unserved: World, bot: str) -> None:
    async with lender(unserved, bot) as responder, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(keyway.lease())
        first = await responder.take()
        await unserved.close_connections(bot)
        again = await responder.take()
        assert (again.request_id, again.message.body) == (first.request_id, first.message.body)
        await lend(again, sealed_api_key=sealed_for(again))
        assert (await asking).api_key.get_secret_value() == API_KEY


async def test_a_report_says_what_was_used(unserved: World, bot: str) -> None:
    reports: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    async def take(message: AbstractIncomingMessage) -> None:
        reports.put_nowait(message)

    async with lender(unserved, bot) as responder, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(keyway.lease())
        asked = await responder.take()
        await lend(asked, sealed_api_key=sealed_for(asked))
        async with unserved.connection.channel() as channel:
            heard = await channel.declare_queue(exclusive=True)
            await heard.bind(names.EVENTS_EXCHANGE, f"usage.reported.{bot}")
            await heard.consume(take, no_ack=True)
            async with await asking as lease:
                used: dict[str, Any] = {"model": "gpt-4o", "prompt_tokens": 3, "completion_tokens": 4}
                first = await lease.report(**used)
                assert await lease.report(**used, report_id="r-2", outcome="rate_limited") == "r-2"
            for report_id, outcome in ((first, "ok"), ("r-2", "rate_limited")):
                message = await asyncio.wait_for(reports.get(), PATIENCE_S)
                assert (message.type, message.message_id) == (names.USAGE_REPORTED, report_id)
                said = UsageReported.model_validate_json(message.body)
                assert said.model_dump() == {
                    **used,
                    "lease_id": "l-1",
                    "report_id": report_id,
                    "outcome": outcome,
                    "total_tokens": 7,
                    "cached_tokens": 0,
                    "reasoning_tokens": 0,
                }
            with pytest.raises(ValueError, match="'fine' is not a valid Outcome"):
                await lease.report(model="m", prompt_tokens=1, completion_tokens=1, outcome="fine")


async def test_bad_wishes_are_refused_before_they_are_sent(unserved: World, bot: str) -> None:
    async with unserved.client(bot) as keyway:
        with pytest.raises(ValueError, match="ttl_s"):
            await keyway.lease(ttl_s=0)
        with pytest.raises(ValueError, match="estimated_tokens"):
            await keyway.lease(estimated_tokens=-1)


async def test_an_automation_without_a_queue_for_them_is_an_error_at_once(unserved: World) -> None:
    url = unserved.settings.amqp_url.get_secret_value()
    async with Keyway(url, automation_id="nobody") as keyway:
        with pytest.raises(PublishError, match="nobody has no queue for direct keys"):
            await keyway.lease()


async def add_lessee(world: World) -> str:
    """An automation that may lease keys, with one."""
    bot = await world.add_automation()
    await world.provisioner.change(bot, {"allow_leases": True}, actor="test")
    await world.add_key(bot, "Primary")
    return bot


async def call(world: World, lease: Lease) -> tuple[int, int]:
    """Call the provider with a lent key; the tokens of prompt and answer."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {lease.api_key.get_secret_value()}"}
    url = f"{lease.base_url}/chat/completions"
    async with world.simulator.session.post(url, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        usage = (await response.json())["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


async def test_a_real_lease_is_used_and_booked(world: World) -> None:
    bot = await add_lessee(world)
    await world.start_accounting()
    await world.start_leasing()
    async with world.client(bot) as keyway, await keyway.lease("gpt-4o-mini") as lease:
        prompt, completion = await call(world, lease)
        await lease.report(model="gpt-4o-mini", prompt_tokens=prompt, completion_tokens=completion)
        (row,) = await world.accounted(bot, 1)
    assert row["source"] == "lease"
    assert (row["prompt_tokens"], row["completion_tokens"]) == (prompt, completion)

    def program() -> str:
        with SyncKeyway(world.url_of(bot)) as keyway, keyway.lease() as lease:
            report = lease.report(model="gpt-4o-mini", prompt_tokens=1, completion_tokens=2)
            assert lease.api_key.get_secret_value() in world.api_keys
            return report

    assert await asyncio.to_thread(program)
    await world.accounted(bot, 2)


async def test_keys_are_lent_only_to_who_may_have_them(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    await world.start_leasing()
    async with world.client(bot) as keyway:
        with pytest.raises(InvalidRequestError, match="direct keys are off"):
            await keyway.lease()

"""A lease outlives its worker; nobody gets two for one request, and a key goes nowhere but to who asked."""

import asyncio
import secrets
import signal
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import bson
import pytest
from aio_pika import ExchangeType
from aio_pika.abc import AbstractIncomingMessage

from contracts.messages import GenerationResult
from infra.consumer_trials import TRIALS
from tests.harness import PATIENCE_S, World, eventually
from tests.lessee import (
    DIRECT,
    add_bot,
    assert_books_are_even,
    counted,
    dead_letter,
    has_status,
    let_it_end,
    signed_in,
)
from workers.keys.key import Limits


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

    await eventually(closed, "the lease that nobody got is closed")

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
        # Whoever charged it may have been killed before it freed the key: then the lease lapses by itself.
        lapsed = {"$set": {"leased.$[].until": datetime.now(UTC)}}
        await world.mongo.keys.update_one({"automation_id": name}, lapsed)
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
            delivery = await queue.get(timeout=PATIENCE_S)
            await delivery.nack(requeue=True)
        await world.start_leasing()
        async with asyncio.timeout(PATIENCE_S):
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
        gone: dict[str, Any] = {"$set": {"held": []}}
        await world.mongo.keys.update_one({"automation_id": name}, gone)
        await world.start_leasing()
        assert (await bot.refusal())[0] == "deadline_exceeded"
        assert (await bot.lease("m-1")).lease_id == lease.lease_id
        assert (await counted(world, name))[2] == 1


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
            named = {c.get("user_provided_name", ""): c["name"] for c in listed}
            kept = ("keyway leasing ", "keyway leases ")
            ours[:] = [named[name] for name in named if name.startswith(kept) and not name.endswith(TRIALS)]
            return len(ours) == 2

        await eventually(are_listed, "the worker's connections in the management API")
        for connection in ours:
            await world.admin.call("DELETE", f"connections/{quote(connection, safe='')}")
        assert (await bot.lease()).lease_id != first.lease_id


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

"""A message that no library can decode harms nobody but itself: it is refused alone, and said to be so."""

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aio_pika import ExchangeType, connect

from contracts.messages import GenerationResult
from infra.dead_letter_facts import Wanted, summary
from infra.dead_letter_queue import dead_letter_queue
from tests.harness import World, eventually
from tests.raw_amqp import Raw, entry, long, raw_publisher, short, text

GOOD = b'{"path": "/moderations", "body": {"input": "hello"}}'
BEAT = b'{"version": "1", "host": "h", "started_at": "2026-03-10T12:00:00Z", "in_flight": 3}'
REPORT = b'{"lease_id": "l-1", "report_id": "1", "model": "gpt-4o-mini", "outcome": "ok"}'
#: What the AMQP libraries log of a connection that is lost.
LOST = ("reader exited abnormally", "Unexpected connection close", "Reconnecting")
ODD_ID = short(b"\xff\xfe")


def nested(depth: int) -> bytes:
    inner = long(b"")
    for _ in range(depth):
        inner = long(entry(b"a", b"F" + inner))
    return inner


def headers(name: bytes, value: bytes) -> Raw:
    return Raw.of(headers=long(entry(name, value)), message_id=short(b"odd"))


#: As much as fits into a frame; RabbitMQ 4 keeps one entry of each name, 3.10 all.
MANY = b"".join(entry(f"{number:04x}".encode(), b"V") for number in range(20_000))
#: Properties that RabbitMQ takes, and what is said of them.
ODD = {
    "id": (Raw.of(message_id=ODD_ID), "message_id is not UTF-8"),
    "correlation-id": (
        Raw.of(correlation_id=ODD_ID, message_id=short(b"odd")),
        "correlation_id is not UTF-8",
    ),
    "address": (Raw.of(reply_to=ODD_ID, message_id=short(b"odd")), "reply_to is not UTF-8"),
    "type": (Raw.of(message_id=short(b"odd"), type=ODD_ID), "type is not UTF-8"),
    "content-type": (Raw.of(content_type=ODD_ID, message_id=short(b"odd")), "content_type is not UTF-8"),
    "app": (Raw.of(app_id=ODD_ID, message_id=short(b"odd")), "app_id is not UTF-8"),
    "header-name": (headers(b"\xff\xfe", b"V"), "a name is not UTF-8"),
    "deep": (Raw.of(headers=nested(10_000), message_id=short(b"odd")), "nested more than"),
    "many": (Raw.of(headers=long(MANY), message_id=short(b"odd")), "more than 1000 values"),
    "control": (Raw.of(message_id=short(b"a\x00\x1b[2J")), "message_id has control characters"),
    "long-ago": (headers(b"timestamp_in_ms", b"l" + struct.pack(">q", -(2**63))), "it was published at"),
    "far-ahead": (headers(b"timestamp_in_ms", b"l" + struct.pack(">q", 2**63 - 1)), "it was published at"),
    "end-of-time": (
        Raw.of(message_id=short(b"odd"), timestamp=struct.pack(">Q", 2**64 - 1)),
        "it was published at",
    ),
}


@asynccontextmanager
async def untouched(world: World) -> AsyncIterator[None]:
    """Assert that no process of Keyway loses a connection meanwhile, and that none ends."""
    before = lost_connections(world)
    alive = [service for service in world.services if service.process.returncode is None]
    yield
    assert lost_connections(world) == before
    assert all(service.process.returncode is None for service in alive)


def lost_connections(world: World) -> int:
    """How often the world's processes have said that they lost a connection."""
    logs = [service.log.read_text() for service in world.services]
    return sum(log.count(said) for log in logs for said in LOST)


async def dead_letters(world: World, bot: str) -> list[dict[str, Any]]:
    """What there is to tell of an automation's dead letters."""
    async with dead_letter_queue(world.settings) as queue:
        steps = [step async for step in queue.find(Wanted(automation_id=bot))]
        return [summary(letter) for step in steps for letter in step.done]


async def dead_of(world: World, bot: str, count: int = 1) -> list[dict[str, Any]]:
    """The same, once so many are there."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = await dead_letters(world, bot)
        return len(found) >= count

    await eventually(there, f"{count} dead letters of {bot}", every_s=0.5)
    return found


async def serves(world: World, bot: str) -> None:
    """Assert that requests of an automation are answered."""
    async with world.client(bot) as keyway:
        for number in range(3):
            result = await keyway.generate("/moderations", input=f"hello {number}", timeout=120)
            assert result.status == "succeeded"


@pytest.mark.parametrize("kind", ODD)
async def test_a_request_with_odd_properties_is_refused_alone(shared: World, kind: str) -> None:
    raw, reason = ODD[kind]
    bot, other = await shared.add_automation(), await shared.add_automation()
    await shared.add_key(other, "Primary")
    async with untouched(shared), raw_publisher(shared.url_of(bot)) as publisher:
        await publisher.publish("requests", bot, raw, GOOD)
        (letter,) = await dead_of(shared, bot)
        await serves(shared, other)
    assert reason in letter["reason"]
    assert await shared.journal(bot) == []


async def test_a_refused_request_is_answered_where_its_address_can_be_read(shared: World) -> None:
    bot = await shared.add_automation()
    async with shared.connection.channel() as channel, raw_publisher(shared.url_of(bot)) as publisher:
        replies = await channel.declare_queue(f"replies.{bot}", auto_delete=True)
        raw = Raw.of(correlation_id=short(b"c-1"), reply_to=short(replies.name.encode()), message_id=ODD_ID)
        await publisher.publish("requests", bot, raw, GOOD)

        async def answered() -> bool:
            answer = await replies.get(fail=False, no_ack=True)
            if answer is None:
                return False
            result = GenerationResult.model_validate_json(answer.body)
            assert answer.correlation_id == "c-1"
            assert result.error is not None
            assert (result.error.code, result.error.message) == ("invalid_request", "message_id is not UTF-8")
            assert 0 <= result.timings.total_ms < 60_000
            return True

        await eventually(answered, "an answer")
        await replies.delete(if_unused=False, if_empty=False)


async def test_a_dead_letter_with_odd_properties_is_listed_shown_replayed_and_dropped(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    table = entry(b"bytes", text(b"\xff")) + entry(b"big", b"d" + struct.pack(">d", 1e300))
    raw = Raw.of(headers=long(table), message_id=ODD_ID)
    large = Raw.of(headers=long(entry(b"x", text(b"x" * 130_900))), message_id=short(b"\x01"))
    async with untouched(shared), raw_publisher(shared.url_of(bot)) as publisher:
        await publisher.publish("requests", bot, raw, GOOD)
        await publisher.publish("requests", bot, large, b'{"n": 99999999999999999999999}')
        letters = {letter["request_id"]: letter["id"] for letter in await dead_of(shared, bot, 2)}
        status, shown, stderr = await shared.cli("dead", "show", letters[r"\xff\xfe"], "--json")
        assert status == 0, stderr
        (letter,) = json.loads(shown)
        assert letter["headers"]["x-keyway-undecodable"]["reason"] == "message_id is not UTF-8"
        assert r"\xff\xfe" in letter["headers"]["x-keyway-undecodable"]["properties"]
        assert (letter["headers"]["big"], letter["headers"]["bytes"]) == (1e300, r"\xff")
        status, shown, stderr = await shared.cli("dead", "show", letters["\x01"], "--json")
        assert status == 0, stderr
        assert "the headers were left out" in json.loads(shown)[0]["headers"]["x-keyway-left-out"]
        assert (await shared.cli("dead", "replay", letters[r"\xff\xfe"]))[0] == 0
        assert (await shared.cli("dead", "drop", letters["\x01"], "--yes"))[0] == 0

    async def done() -> bool:
        return len(await shared.journal(bot)) == 1

    await eventually(done, "the replayed request at the provider")
    assert await dead_letters(shared, bot) == []


@pytest.mark.parametrize(
    ("event", "body", "raw", "reason"),
    [
        (
            "heartbeat",
            BEAT,
            Raw.of(message_id=ODD_ID, type=short(b"heartbeat.v1")),
            "message_id is not UTF-8",
        ),
        ("heartbeat", BEAT, Raw.of(type=ODD_ID), "type is not UTF-8"),
        (
            "heartbeat",
            BEAT.replace(b"3}", b"9223372036854775808}"),
            Raw.of(type=short(b"heartbeat.v1")),
            "in_flight",
        ),
        ("heartbeat", BEAT.replace(b"2026", b"9999"), Raw.of(type=short(b"heartbeat.v1")), "started_at"),
        ("usage.reported", REPORT, Raw.of(message_id=ODD_ID, type=short(b"usage.reported.v1")), "message_id"),
        (
            "usage.reported",
            REPORT,
            Raw.of(headers=nested(10_000), type=short(b"usage.reported.v1")),
            "nested more than",
        ),
    ],
    ids=["beat-id", "beat-type", "beat-calls", "beat-start", "report-id", "report-deep"],
)
async def test_an_odd_event_is_refused_alone_and_accounting_goes_on(
    shared: World, event: str, body: bytes, raw: Raw, reason: str
) -> None:
    bot, other = await shared.add_automation(), await shared.add_automation()
    await shared.add_key(other, "Primary")
    async with untouched(shared), raw_publisher(shared.url_of(bot)) as publisher:
        await publisher.publish("events", f"{event}.{bot}", raw, body)
        (letter,) = await dead_of(shared, bot)
        await serves(shared, other)
        await shared.accounted(other, 3)
    assert reason in letter["reason"]


async def test_an_odd_request_for_a_key_is_refused_alone(leasing: World) -> None:
    bot, other = await leasing.add_automation(), await leasing.add_automation()
    await leasing.mongo.automations.update_one({"_id": other}, {"$set": {"allow_leases": True}})
    await leasing.add_key(other, "Primary")
    async with untouched(leasing), raw_publisher(leasing.url_of(bot)) as publisher:
        raw = Raw.of(reply_to=short(f"replies.{bot}".encode()), message_id=ODD_ID)
        await publisher.publish("requests", f"leases.{bot}", raw)
        (letter,) = await dead_of(leasing, bot)
        async with leasing.client(other) as keyway, await keyway.lease() as lease:
            assert lease.key_alias == "Primary"
    assert "message_id is not UTF-8" in letter["reason"]


async def test_an_odd_request_that_the_broker_ended_stops_nobody(world: World) -> None:
    bot, other = await world.add_automation(), await world.add_automation()
    await world.add_key(other, "Primary")
    async with raw_publisher(world.url_of(bot)) as publisher:
        await publisher.publish("requests", bot, Raw.of(expiration=short(b"1"), message_id=ODD_ID), GOOD)

    async def waits() -> int:
        async with world.connection.channel() as channel:
            queue = await channel.declare_queue("dead.unanswered", passive=True)
            return queue.declaration_result.message_count or 0

    async def has_expired() -> bool:
        return await waits() == 1

    async def is_answered() -> bool:
        return await waits() == 0

    await eventually(has_expired, "the request that has expired")
    await world.start_worker()
    async with untouched(world):
        await serves(world, other)
        await eventually(is_answered, "an end of the request")
        await serves(world, other)


@pytest.mark.parametrize("hand_backs", [0, 2], ids=["delivered", "delivered-too-often"])
async def test_an_odd_request_harms_itself_alone_where_one_delivery_is_the_most(
    world: World, hand_backs: int
) -> None:
    world.settings = world.settings.model_copy(update={"delivery_limit": 1})
    world.environment["KEYWAY_DELIVERY_LIMIT"] = "1"
    bot, other = await world.add_automation(), await world.add_automation()
    await world.add_key(other, "Primary")
    lane = await world.admin.call("GET", f"queues/{{vhost}}/requests.{bot}")
    assert lane["arguments"]["x-delivery-limit"] == 1

    async def waits(queue: str) -> int:
        async with world.connection.channel() as channel:
            declared = await channel.declare_queue(queue, passive=True)
            return declared.declaration_result.message_count or 0

    async def is_unanswered() -> bool:
        return await waits("dead.unanswered") == 1

    async def is_done() -> bool:
        return await waits("dead.unanswered") == 0 and await waits(f"requests.{bot}") == 0

    async with raw_publisher(world.url_of(bot)) as publisher:
        await publisher.publish("requests", bot, Raw.of(message_id=ODD_ID), GOOD)
    async with world.connection.channel() as channel:
        queue = await channel.declare_queue(f"requests.{bot}", passive=True)
        for _ in range(hand_backs):
            message = await queue.get()
            assert message is not None
            await message.nack(requeue=True)
    if hand_backs:
        await eventually(is_unanswered, "the request that was delivered too often")
    await world.start_worker()
    async with untouched(world):
        await serves(world, other)
        (letter,) = await dead_of(world, bot)
        await eventually(is_done, "an end of the request")
        await serves(world, other)
    (letter,) = await dead_of(world, bot)
    assert ("delivery_limit" if hand_backs else "message_id is not UTF-8") in letter["reason"]
    assert await world.journal(bot) == []


async def test_an_odd_change_is_heard_by_nobody_and_stops_nobody(shared: World) -> None:
    bot, other = await shared.add_automation(), await shared.add_automation()
    await shared.add_key(other, "Primary")
    async with await connect(shared.url_of(bot)) as connection:
        channel = await connection.channel()
        # RabbitMQ lets an automation bind an exchange that it may write to.
        tunnel = await channel.declare_exchange(f"replies.{bot}.tunnel", ExchangeType.FANOUT)
        await (await channel.get_exchange("events", ensure=False)).bind(tunnel)
        async with untouched(shared), raw_publisher(shared.url_of(bot)) as publisher:
            raw = Raw.of(headers=nested(5000), message_id=ODD_ID)
            for key in (
                f"config.changed.{other}".encode(),
                b"config.changed.\xff\xfe",
                b"usage.recorded.\xff",
            ):
                await publisher.publish(tunnel.name, key, raw)
            await serves(shared, other)
            await shared.accounted(other, 3)
        await tunnel.delete()

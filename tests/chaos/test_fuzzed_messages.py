"""Whatever is published to a lane is answered or dead-lettered with a reason, and no worker ends of it."""

import asyncio
import base64
import json
import secrets
from collections import Counter
from typing import Any

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage

from contracts.messages import GenerationResult
from contracts.names import DEATH_HEADER, REASON_HEADER
from tests.chaos.fleet import Fleet
from tests.chaos.fuzz import NUMBER_HEADER, Fuzzed, Fuzzer
from tests.chaos.report import Report
from tests.harness import PATIENCE_S, World, eventually

#: Messages that are published side by side.
PAGE = 100
#: What a worker that is busy takes to stop, in seconds; longer than is waited for.
GRACE_S = "3600"
GOOD = b'{"path": "/moderations", "body": {"input": "hello"}}'


class Fates:
    """What became of each message."""

    def __init__(self, world: World, bot: str) -> None:
        self._world, self._bot = world, bot
        self.reply_to = f"replies.{bot}.fuzz"
        self.answered: set[str] = set()
        self.codes: Counter[str] = Counter()
        self.dead: dict[int, str] = {}
        self.done: set[str] = set()

    async def watch(self) -> None:
        channel = await self._world.connection.channel()
        await (await channel.declare_queue(self.reply_to, durable=True)).consume(self._answered, no_ack=True)
        await (await channel.get_queue("dead", ensure=False)).consume(self._dead, no_ack=True)

    async def missing(self, messages: list[Fuzzed]) -> list[Fuzzed]:
        """Those that want an answer and have none; of the others, those that are neither done nor dead."""
        done = {"automation_id": self._bot, "status": {"$ne": "running"}}
        found = self._world.mongo.requests.find(done, {"request_id": 1})
        self.done = {document["request_id"] async for document in found}
        return [message for message in messages if not self._has_ended(message)]

    def _has_ended(self, message: Fuzzed) -> bool:
        if message.reply_to == self.reply_to:
            return bool(message.names & self.answered)
        return message.number in self.dead or bool(message.names & self.done)

    async def _answered(self, message: AbstractIncomingMessage) -> None:
        self.answered |= {str(message.message_id), str(message.correlation_id)}
        answer = GenerationResult.model_validate_json(message.body)
        self.codes[answer.error.code if answer.error else answer.status] += 1

    async def _dead(self, message: AbstractIncomingMessage) -> None:
        number = message.headers.get(NUMBER_HEADER)
        if isinstance(number, int):
            broker_says = json.dumps(message.headers.get(DEATH_HEADER), default=str)
            self.dead[number] = str(message.headers.get(REASON_HEADER) or broker_says)


async def publish(world: World, bot: str, messages: list[Fuzzed]) -> None:
    async with world.connection.channel() as channel:
        exchange = await channel.get_exchange("requests", ensure=False)
        for begin in range(0, len(messages), PAGE):
            await asyncio.gather(
                *(
                    exchange.publish(
                        Message(m.body, headers=m.headers, reply_to=m.reply_to, **m.properties),
                        bot,
                        timeout=PATIENCE_S,
                    )
                    for m in messages[begin : begin + PAGE]
                )
            )


async def test_every_fuzzed_message_is_answered_or_dead_lettered_and_no_worker_ends(
    world: World, is_long: bool, seed: int, report: Report
) -> None:
    count = 10_000 if is_long else 500
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    await world.start_accounting()
    fleet = Fleet(world, wait_for_silence=True)
    await fleet.start(2)
    fates = Fates(world, bot)
    await fates.watch()
    fuzzer = Fuzzer(seed, bot, fates.reply_to)
    messages = [fuzzer.message(number) for number in range(count)]
    await publish(world, bot, messages)

    async def all_have_ended() -> bool:
        return not await fates.missing(messages)

    try:
        await eventually(
            all_have_ended, "an end of each message", within_s=300 if is_long else 120, every_s=0.5
        )
    except AssertionError:
        pytest.fail(f"seed {seed}: no end of {(await fates.missing(messages))[:3]}")
    fleet.assert_none_restarted()
    assert fates.codes["internal"] == 0, f"seed {seed}: a fault of ours"
    assert all(reason not in {"", "null"} for reason in fates.dead.values())
    async with world.client(bot) as keyway:
        assert (await keyway.generate("/moderations", input="hello")).status == "succeeded"
    report.tell(
        seed=seed,
        messages=count,
        answered=fates.codes.total(),
        answers=dict(sorted(fates.codes.items())),
        dead_lettered=len(fates.dead),
        restarts=0,
    )


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


#: Properties that a client library writes by itself, as nobody should.
ODD_PROPERTIES: dict[str, dict[str, Any]] = {
    "milliseconds": {"timestamp": 1_795_500_000_000},
    "nanoseconds": {"timestamp": 1_795_500_000_000_000_000},
    "the-end-of-time": {"timestamp": 2**63 - 1},
    "deep": {"headers": {"x-deep": nested(300)}},
    "forged-address": {"reply_to": "amq.rabbitmq.reply-to.forged.x=="},
    "forged-key": {"reply_to": "amq.rabbitmq.reply-to.Zm9yZ2Vk.Zm9yZ2Vk"},
}


async def test_properties_that_only_others_write_stop_no_worker(world: World) -> None:
    bots = {name: await world.add_automation(f"{name}-{secrets.token_hex(4)}") for name in ODD_PROPERTIES}
    for bot in bots.values():
        await world.add_key(bot, "Primary")
    fleet = Fleet(world, wait_for_silence=True, KEYWAY_GRACE_S=GRACE_S)
    await fleet.start()
    dead: set[str | None] = set()

    async def note(message: AbstractIncomingMessage) -> None:
        dead.add(message.routing_key)

    async with world.connection.channel() as channel:
        await (await channel.get_queue("dead", ensure=False)).consume(note, no_ack=True)
        for name, properties in ODD_PROPERTIES.items():
            await publish_odd(world, bots[name], properties)
            async with world.client(bots[name]) as keyway:
                result = await keyway.generate("/moderations", input="hello")
            assert result.status == "succeeded", name

        async def left() -> set[str]:
            found = world.mongo.requests.find({"request_id": "odd", "status": {"$ne": "running"}})
            ended = {document["automation_id"] async for document in found} | dead
            return {name for name, bot in bots.items() if bot not in ended}

        async def all_have_ended() -> bool:
            return not await left()

        try:
            await eventually(all_have_ended, "each message done, or dead-lettered")
        except AssertionError:
            pytest.fail(f"no end of {await left()}")
    fleet.assert_none_restarted()
    # One that tries for ever to be rid of the answer is not done with the message.
    await fleet.assert_all_stop()


async def publish_odd(world: World, bot: str, properties: dict[str, Any]) -> None:
    message = {
        "routing_key": bot,
        "payload": base64.b64encode(GOOD).decode(),
        "payload_encoding": "base64",
        "properties": {"message_id": "odd", "delivery_mode": 2, **properties},
    }
    assert (await world.admin.call("POST", "exchanges/{vhost}/requests/publish", message))["routed"]


async def test_forged_addresses_cost_a_client_that_was_answered_before_nothing(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    fleet = Fleet(world, wait_for_silence=True)
    await fleet.start()
    async with world.client(bot) as keyway, world.connection.channel() as channel:
        await keyway.generate("/moderations", input="before", timeout=120)
        requests = await channel.get_exchange("requests", ensure=False)
        for number in range(5):
            forged = Message(
                GOOD, message_id=f"odd-{number}", reply_to=f"amq.rabbitmq.reply-to.forged.{number}=="
            )
            await requests.publish(forged, bot)
            results = await asyncio.gather(
                *(keyway.generate("/moderations", input=f"{number}/{n}", timeout=120) for n in range(10))
            )
            assert not any(result.replayed for result in results), "a reply was lost and sent again"
    fleet.assert_none_restarted()

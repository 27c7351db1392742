"""One queue's trouble is its own: it is consumed again when it can be, and what others consume goes on."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from aio_pika import Message, connect_robust
from aio_pika.abc import AbstractRobustConnection

from contracts import names
from infra.broker import lane
from infra.consuming import Consuming
from infra.deliveries import Delivery
from infra.errors import BrokerError
from infra.provision import AUTOMATION_DEFAULTS
from infra.queue_declaration import declare_queue
from tests.harness import PATIENCE_S, World, eventually
from tests.lessee import add_bot, signed_in
from tests.readiness import ready, readyz, troubles
from tests.scraped import scrape
from workers.generation.automation import Automation
from workers.generation.lanes import Lanes
from workers.keys.pool import KeyPool


async def consumers(world: World, prefix: str) -> int:
    """How many consumers the queues have whose names begin so, as RabbitMQ itself says."""
    count = 0
    async with world.connection.channel() as channel:
        for queue in await world.admin.queues():
            if queue["name"].startswith(prefix):
                declared = await channel.declare_queue(queue["name"], passive=True, robust=False)
                count += declared.declaration_result.consumer_count or 0
    return count


async def consumed(world: World, prefix: str, count: int) -> None:
    async def there() -> bool:
        try:
            return await consumers(world, prefix) == count
        except Exception:  # noqa: BLE001  # a queue was deleted between two questions
            return False

    await eventually(there, f"{count} consumers of {prefix}")


class Handler:
    """Does deliveries when it is told to, and remembers them."""

    def __init__(self) -> None:
        self.taken: list[Delivery] = []
        self.go_on = asyncio.Event()

    async def __call__(self, message: Delivery, _: Automation) -> None:
        self.taken.append(message)
        if message.message_id == "held":
            await self.go_on.wait()
        await message.ack()

    async def has(self, count: int) -> None:
        async def there() -> bool:
            return len(self.taken) >= count

        await eventually(there, f"{count} deliveries")

    @property
    def ids(self) -> list[str | None]:
        return [message.message_id for message in self.taken]


@asynccontextmanager
async def served_lanes(
    world: World, handler: Handler, *bots: str
) -> AsyncIterator[tuple[Lanes, AbstractRobustConnection, Consuming]]:
    settings = world.settings.model_copy(update={"lanes": frozenset(bots)})
    async with await connect_robust(world.settings.amqp_url.get_secret_value()) as connection:
        consuming = Consuming(connection)
        lanes = Lanes(settings, world.mongo, consuming, handler, KeyPool(world.mongo, "worker-1"))
        await lanes.start()
        yield lanes, connection, consuming
        await lanes.stop(10)
        await consuming.close()


async def publish(connection: AbstractRobustConnection, bot: str, message_id: str) -> None:
    async with connection.channel() as channel:
        exchange = await channel.get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
        await exchange.publish(Message(b"{}", message_id=message_id), bot)


async def test_a_deleted_lane_is_made_and_consumed_again_and_other_lanes_keep_what_they_have(
    unserved: World,
) -> None:
    gone, other = await unserved.add_automation(), await unserved.add_automation()
    handler = Handler()
    async with served_lanes(unserved, handler, gone, other) as (lanes, connection, _):
        (channel,) = lanes._channels
        for bot in (gone, other):
            await publish(connection, bot, "held")
        await handler.has(2)
        await unserved.admin.call("DELETE", f"queues/{{vhost}}/{names.lane_queue(gone)}")
        await consumed(unserved, names.lane_queue(gone), 1)
        await publish(connection, gone, "again")
        await handler.has(3)
        handler.go_on.set()
        await publish(connection, other, "after")
        await publish(connection, gone, "after")
        await handler.has(5)
        assert list(lanes._channels) == [channel]
    assert sorted(map(str, handler.ids)) == ["after", "after", "again", "held", "held"]
    assert not any(message.redelivered for message in handler.taken)


async def test_requests_that_wait_are_delivered_once_when_their_lane_is_consumed(unserved: World) -> None:
    bot = await unserved.add_automation()
    for message_id in ("1", "2", "3"):
        await publish(unserved.connection, bot, message_id)
    handler = Handler()
    async with served_lanes(unserved, handler, bot):
        await handler.has(3)
    assert handler.ids == ["1", "2", "3"]
    assert not any(message.redelivered for message in handler.taken), "a trial of the lane took none"


async def test_a_lane_that_must_not_be_read_harms_no_other_however_often_it_is_tried(world: World) -> None:
    bad, other = await world.add_automation(), await world.add_automation()
    permissions = f"permissions/{{vhost}}/{(await world.admin.call('GET', 'whoami'))['name']}"
    allowed = {"configure": ".*", "write": ".*", "read": ".*"}
    await world.admin.call("PUT", permissions, {**allowed, "read": rf"^(?!requests\.{bad}$).*$"})
    handler = Handler()
    async with served_lanes(world, handler, bad, other) as (lanes, connection, consuming):
        await consumed(world, names.lane_queue(other), 1)
        (channel,) = lanes._channels
        await publish(connection, other, "held")
        await handler.has(1)
        tries = []
        note = consuming._note

        def noted(kind: str, queue: str, error: Exception) -> None:
            tries.append(queue)
            note(kind, queue, error)

        for served in lanes._lanes.values():
            consumer = served.consumer
            await consumer.tried.wait()
            consumer._note = partial(noted, "requests", consumer.queue)

        await publish(connection, bad, "waits")

        async def is_tried() -> bool:
            return len(tries) >= 2

        await eventually(is_tried, "further tries")
        assert set(tries) == {names.lane_queue(bad)}
        (missing,) = consuming.not_consumed
        assert missing.queue == names.lane_queue(bad)
        assert "ACCESS_REFUSED" in missing.reason
        assert list(lanes._channels) == [channel]
        await world.admin.call("PUT", permissions, allowed)
        await consumed(world, names.lane_queue(bad), 1)
        handler.go_on.set()
        await publish(connection, bad, "now")
        await handler.has(3)
    assert sorted(str(message.message_id) for message in handler.taken) == ["held", "now", "waits"]
    # RabbitMQ 4 has given that one to a trial before.
    assert not any(message.redelivered for message in handler.taken if message.message_id != "waits")


async def test_every_queue_that_is_deleted_is_consumed_again(world: World) -> None:
    world.environment["KEYWAY_METRICS_PORT"] = "0"
    bot = await add_bot(world)
    await world.add_key(bot, "Primary")
    accounting, worker = await world.start_accounting(), await world.start_worker()
    leasing = await world.start_leasing()
    expected = {f"requests.{bot}": 1, f"leases.{bot}": 1, "accounting": 1, "dead.unanswered": 1, "reload.": 2}
    for prefix, count in expected.items():
        await consumed(world, prefix, count)
    for queue in await world.admin.queues():
        if queue["name"] != "dead":
            await world.admin.call("DELETE", f"queues/{{vhost}}/{queue['name']}")
    for prefix, count in expected.items():
        await consumed(world, prefix, count)
    for service in (accounting, worker, leasing):
        await ready(service)
        assert service.process.returncode is None
    async with world.client(bot) as keyway:
        result = await keyway.generate("/moderations", input="hello", timeout=120)
        assert result.status == "succeeded"
    async with signed_in(world, bot) as lessee:
        await lessee.lease()
    await world.assert_books_equal_journal(bot)
    # Changes are heard again: the second automation is served before the list is read again by itself.
    second = await world.add_automation()
    await consumed(world, f"requests.{second}", 1)


async def test_the_queue_of_dead_letters_is_made_again_where_it_alone_is_deleted(world: World) -> None:
    bot = await world.add_automation()
    worker = await world.start_worker()
    await consumed(world, "dead.unanswered", 1)
    await world.admin.call("DELETE", f"queues/{{vhost}}/{names.DEAD_QUEUE}")

    async def letters() -> int:
        found = await world.admin.call("GET", f"queues/{{vhost}}/{names.DEAD_QUEUE}", may_be_missing=True)
        if found is None:
            return -1
        async with world.connection.channel() as channel:
            queue = await channel.declare_queue(names.DEAD_QUEUE, passive=True, robust=False)
            return queue.declaration_result.message_count or 0

    async def is_back() -> bool:
        return await letters() == 0

    async def has_a_letter() -> bool:
        return await letters() == 1

    await eventually(is_back, "the queue of dead letters")
    async with world.connection.channel() as channel:
        requests = await channel.get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
        await requests.publish(Message(b"no request", message_id="odd"), bot)
    await eventually(has_a_letter, "a dead letter")
    restored = [event for event in worker.events() if event["event"] == "queue_restored"]
    assert [event["queue"] for event in restored] == [names.DEAD_QUEUE]


async def test_a_queue_of_another_kind_stops_its_automation_alone_until_it_is_gone(world: World) -> None:
    world.environment["KEYWAY_METRICS_PORT"] = "0"
    fine = await world.add_automation()
    await world.add_key(fine, "Primary")
    blocked = f"blocked-{secrets.token_hex(4)}"
    queue = names.lane_queue(blocked)
    await world.admin.call("PUT", f"queues/{{vhost}}/{queue}", {"durable": True})
    with pytest.raises(BrokerError, match=f"refuses the queue {queue}: .*PRECONDITION_FAILED"):
        await world.add_automation(blocked)
    await world.mongo.automations.insert_one(
        {"_id": blocked, **AUTOMATION_DEFAULTS, "created_at": datetime.now(UTC)}
    )
    await world.add_key(blocked, "Primary")
    worker = await world.start_worker()

    async def tried() -> bool:
        return len(troubles(worker, queue)) >= 4

    async with world.client(fine) as keyway:
        for _ in range(5):
            assert (await keyway.generate("/moderations", input="x", timeout=120)).status == "succeeded"
    status, body = await readyz(worker)
    assert (status, body["status"], body["rabbitmq"], body["not_consumed_count"]) == (
        503,
        "unavailable",
        True,
        1,
    )
    (missing,) = body["not_consumed"]
    assert (missing["kind"], missing["queue"]) == ("requests", queue)
    assert "inequivalent arg" in missing["reason"]
    scraped = await scrape([worker])
    told = scraped.labels_of("keyway_queues_not_consumed", "kind", service="generation")
    assert told == {"requests": 1, "unanswered": 0, "changes": 0}
    await eventually(tried, "four tries")
    first, *_, fourth = [datetime.fromisoformat(event["timestamp"]) for event in troubles(worker, queue)[:4]]
    assert (fourth - first).total_seconds() > 2, "pauses grow: 0.5 s, 1 s, 2 s at least"
    assert not [event for event in worker.events() if event["event"] == "delivery_gone"]

    await world.admin.call("DELETE", f"queues/{{vhost}}/{queue}")
    await ready(worker)
    world.tokens[blocked] = await world.provisioner.tokens.create(blocked)
    async with world.client(blocked) as keyway:
        assert (await keyway.generate("/moderations", input="x", timeout=120)).status == "succeeded"


async def let_in_again(world: World, bot: str) -> None:
    """Give an automation's user its permissions in the new vhost."""
    await world.admin.call("PUT", f"permissions/{{vhost}}/{bot}", names.permissions(bot))


async def test_a_broker_that_was_rebuilt_empty_is_served_again_by_all_services_by_themselves(
    world: World,
) -> None:
    world.environment["KEYWAY_METRICS_PORT"] = "0"
    bot = await add_bot(world)
    await world.add_key(bot, "Primary")
    services = [await world.start_accounting(), await world.start_worker(), await world.start_leasing()]
    async with world.client(bot) as keyway:
        results = keyway.results("nightly")
        waiting = asyncio.ensure_future(anext(results))
        assert (await keyway.generate("/moderations", input="x", timeout=120)).status == "succeeded"
        await consumed(world, f"replies.{bot}.nightly", 1)
        await world.accounted(bot, 1)
        await world.admin.call("DELETE", "vhosts/{vhost}")
        await world.admin.ensure_vhost()
        await let_in_again(world, bot)
        for prefix in (f"requests.{bot}", f"leases.{bot}", "accounting", "dead.unanswered"):
            await consumed(world, prefix, 1)
        await consumed(world, f"replies.{bot}.nightly", 1)
        for service in services:
            await ready(service)
        assert {queue["name"] for queue in await world.admin.queues()} >= {"dead", "dead.unanswered"}
        assert (await keyway.generate("/moderations", input="y", timeout=120)).status == "succeeded"
        request_id = await keyway.submit("/moderations", name="nightly", input="z")
        async with asyncio.timeout(PATIENCE_S):
            assert (await waiting).request_id == request_id
        await results.aclose()
    async with signed_in(world, bot) as lessee:
        await lessee.lease()
    await world.accounted(bot, 3)
    await world.assert_books_equal_journal(bot)
    assert all(service.process.returncode is None for service in services)


@pytest.mark.parametrize(
    "changes",
    [
        {"x-max-length": 2, "x-delivery-limit": 3},
        {f"x-dead-letter-{name}": None for name in ("exchange", "routing-key", "strategy")},
        {"x-max-length": 2**40, "x-max-length-bytes": 2**30, "x-single-active-consumer": True},
        {"x-overflow": "drop-head", "x-dead-letter-strategy": None, "x-dead-letter-routing-key": "other"},
    ],
)
async def test_a_quorum_queue_with_other_settings_is_taken_as_it_is(
    unserved: World, changes: dict[str, Any]
) -> None:
    wanted = lane(f"bot-{secrets.token_hex(4)}", unserved.settings)
    arguments = {name: value for name, value in {**wanted.arguments, **changes}.items() if value is not None}
    await declare_queue(unserved.connection, replace(wanted, arguments=arguments))
    await declare_queue(unserved.connection, wanted)
    found = await unserved.admin.call("GET", f"queues/{{vhost}}/{wanted.name}")
    assert found["arguments"] == arguments

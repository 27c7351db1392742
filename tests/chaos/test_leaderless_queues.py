"""A queue without a leader, which RabbitMQ 3.10 may have after it was killed, stops nobody else's work."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aio_pika import Message
from aiormq.abc import AbstractChannel, DeliveredMessage

from contracts import Keyway, consumer_channels, names
from contracts.consumer_channels import Take
from contracts.queue_consumer import QueueConsumer
from infra.broker import lane
from infra.consuming import Consuming
from infra.local.rabbitmq import RabbitMQ
from tests.chaos.erlang import evaluate
from tests.harness import PATIENCE_S, World, eventually
from tests.readiness import ready, readyz, troubles
from tests.scraped import scrape

#: What RabbitMQ adds to its net tick time for how long a channel waits for a queue's leader, in seconds.
ADDED_S = 5
#: How long it waits here, in seconds, and how long a worker does.
WAIT_S = 2
TRIED_FOR = "infra.consumer_trials.ANSWER_TIMEOUT_S=1"


async def lose_leader(node: RabbitMQ, queue: str, vhost: str) -> None:
    """Start a queue's server from scratch, as RabbitMQ does at a start where it finds no name on its disk."""
    await evaluate(
        node,
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), '
        "ok = ra:force_delete_server(quorum_queues, amqqueue:get_pid(Q)), "
        f'{{[_], []}} = rabbit_quorum_queue:recover(<<"{vhost}">>, [Q]), ok.',
    )


async def elect_leader(node: RabbitMQ, queue: str, vhost: str) -> None:
    """What docs/operations.md has an operator do."""
    await evaluate(node, f"ok = ra:trigger_election({{'{vhost}_{queue}', node()}}).")


async def publishers_waiting(node: RabbitMQ) -> int:
    """How many channels wait for a quorum queue to take a message: RabbitMQ 4 logs none, 3.10 does."""
    return int(
        await evaluate(
            node,
            "length([P || P <- rabbit_channel:list_local(), "
            "{_, Stack} <- [erlang:process_info(P, current_stacktrace)], "
            "{rabbit_fifo_client, enqueue, _, _} <- Stack]).",
        )
    )


@asynccontextmanager
async def impatient(node: RabbitMQ) -> AsyncIterator[None]:
    """Have channels wait less for a leader: then they end, and their connections with them."""
    waits_s = await evaluate(node, "application:get_env(kernel, net_ticktime, 60).")
    await evaluate(node, f"application:set_env(kernel, net_ticktime, {WAIT_S - ADDED_S}).")
    try:
        yield
    finally:
        await evaluate(node, f"application:set_env(kernel, net_ticktime, {waits_s}).")


def vhost_of(world: World) -> str:
    return world.settings.amqp_url.get_secret_value().rpartition("/")[2]


async def are_answered(keyway: Keyway, count: int) -> None:
    for number in range(count):
        result = await keyway.generate("/moderations", input=f"call {number}", timeout=60)
        assert (result.status, result.replayed) == ("succeeded", False)


async def test_a_lane_without_a_leader_stops_its_automation_alone_until_it_has_one(
    world_on_rabbitmq: World, rabbitmq: RabbitMQ
) -> None:
    world = world_on_rabbitmq
    world.environment["KEYWAY_METRICS_PORT"] = "0"
    stuck, other = await world.add_automation(), await world.add_automation()
    for bot in (stuck, other):
        await world.add_key(bot, "Primary")
    queue = names.lane_queue(stuck)
    asked = 0
    async with impatient(rabbitmq):
        await lose_leader(rabbitmq, queue, vhost_of(world))
        worker = await world.start_worker(constants=TRIED_FOR)
        async with world.client(other) as keyway:
            while len(troubles(worker, queue)) < 3:
                await are_answered(keyway, 1)
                asked += 1
        status, body = await readyz(worker)
        told = (await scrape([worker])).labels_of("keyway_queues_not_consumed", "kind")
    lost = [event for event in worker.events() if event["event"] == "queues_not_consumed"]
    # Another may be slow once, on a busy machine; the next try consumes it.
    times = Counter(name for event in lost for name in event["queues"])
    assert {name for name, count in times.items() if count > 1} == {queue}
    assert len(await world.journal(other)) == asked
    assert status == 503
    (missing,) = body["not_consumed"]
    assert (missing["kind"], missing["queue"]) == ("requests", queue)
    assert "has the queue a leader?" in missing["reason"]
    assert told == {"requests": 1, "unanswered": 0, "changes": 0}
    await elect_leader(rabbitmq, queue, vhost_of(world))
    await ready(worker)
    async with world.client(stuck) as keyway:
        await are_answered(keyway, 1)


async def test_a_reply_queue_without_a_leader_keeps_no_other_answer_waiting(
    world_on_rabbitmq: World, rabbitmq: RabbitMQ
) -> None:
    world = world_on_rabbitmq
    stuck, other = await world.add_automation(), await world.add_automation()
    for bot in (stuck, other):
        await world.add_key(bot, "Primary")
    queue = f"replies.{stuck}.jobs"

    async def is_waited_for() -> bool:
        return bool(await world.journal(stuck)) and await publishers_waiting(rabbitmq) > 0

    async with world.client(stuck) as asking, world.client(other) as keyway:
        ids = {await asking.submit("/moderations", name="jobs", input=f"{number}") for number in range(3)}
        await lose_leader(rabbitmq, queue, vhost_of(world))
        worker = await world.start_worker()
        await eventually(is_waited_for, "a reply that waits for a leader")
        await are_answered(keyway, 10)
        assert not [event for event in worker.events() if event["event"].startswith("reply_")]
        await elect_leader(rabbitmq, queue, vhost_of(world))
        results = asking.results("jobs")
        async with asyncio.timeout(60):
            while ids:
                ids.discard((await anext(results)).request_id)
        await results.aclose()


async def test_a_consumer_that_is_not_answered_ends_none_beside_it_for_good(
    world_on_rabbitmq: World, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_on_rabbitmq
    stuck, other = await world.add_automation(), await world.add_automation()
    taken: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
    consuming = Consuming(world.connection)
    channels = consuming.channels()

    def receive(_: AbstractChannel) -> Take:
        return taken.put

    consumer = consuming.consume(
        "requests", lane(other, world.settings), receive, prefetch=1, channels=channels
    )
    await consumer.tried.wait()
    queue, transport = names.lane_queue(stuck), world.connection.transport
    await lose_leader(rabbitmq, queue, vhost_of(world))

    async def declare() -> None:
        """It is there."""

    unproved = QueueConsumer(queue, channels=channels, declare=declare, receive=receive, prefetch=1)
    with monkeypatch.context() as patched:
        patched.setattr(consumer_channels, "BROKER_TIMEOUT_S", 1)
        running = asyncio.ensure_future(unproved.run())
        await unproved.tried.wait()
        running.cancel()
    async with world.connection.channel() as publishing, asyncio.timeout(PATIENCE_S):
        exchange = await publishing.get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
        # RabbitMQ gives one to the consumer that it does not handle any more.
        for _ in range(2):
            await exchange.publish(Message(b"{}"), other)
        await taken.get()
    assert world.connection.transport is transport, "that ends with its connection"
    await elect_leader(rabbitmq, queue, vhost_of(world))
    await consuming.close()

"""What a worker's death leaves behind: a call of unknown end, a claim that is lost, a message that kills."""

import json
import signal
from datetime import UTC, datetime, timedelta

import pytest

from tests.collector import BODY, Collector
from tests.harness import Service, World, eventually

CHAT = (
    b'{"path": "/chat/completions", "body": {"model": "gpt-4o-mini", '
    b'"messages": [{"role": "user", "content": "hi"}]}}'
)


async def kill(world: World, worker: Service) -> None:
    """Kill a worker, and let the half minute of silence be over by which it is known for dead."""
    await worker.stop(signal.SIGKILL)
    await world.silence_workers()


async def a_call_under_way(world: World) -> None:
    async def is_there() -> bool:
        return await world.simulator.in_flight() == 1

    await eventually(is_there, "a call under way")


async def test_a_call_whose_worker_died_is_made_anew_and_booked_as_ambiguous(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", {"hang_rate": 1.0})
    await world.start_accounting()
    doomed = await world.start_worker()
    async with Collector(world, bot) as collector:
        await collector.ask("cut-short", CHAT)
        await a_call_under_way(world)
        await kill(world, doomed)
        await world.script(bot, "Primary")
        await world.start_worker()
        answer = await collector.answer()
    assert (answer.status, answer.replayed) == ("succeeded", False)
    lost, made = await world.accounted(bot, 2)
    assert (lost["outcome"], lost["event_id"], lost["key_alias"]) == ("ambiguous", "cut-short:1", "Primary")
    assert (lost["total_tokens"], lost["cost_nanousd"]) == (0, 0)
    assert lost["reserved_tokens"] > 0
    assert (made["outcome"], made["event_id"]) == ("ok", "cut-short:101")
    assert len(await world.journal(bot)) == 2
    status, stdout, _ = await world.cli("usage", "--json")
    assert status == 0
    (total,) = json.loads(stdout)
    assert (total["attempts"], total["succeeded"], total["ambiguous"]) == (2, 1, 1)
    await world.assert_totals_equal_ledger(bot, "key")


@pytest.mark.waits
async def test_a_worker_that_was_taken_for_dead_does_not_call_when_it_comes_back(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    stopped = await world.start_worker()
    cooled = [{"$set": {"cooled_until": {"$add": ["$$NOW", 15_000]}}}]
    await world.mongo.keys.update_one({"automation_id": bot}, cooled)
    async with Collector(world, bot) as collector:
        await collector.ask("twice", CHAT)

        async def is_claimed() -> bool:
            return await world.mongo.requests.find_one({"automation_id": bot}) is not None

        await eventually(is_claimed, "a claim of the request, which waits for the key")
        stopped.process.send_signal(signal.SIGSTOP)
        try:
            over = [{"$set": {"cooled_until": "$$NOW"}}]
            await world.mongo.keys.update_one({"automation_id": bot}, over)
            await world.silence_workers()
            await world.start_worker()
            await collector.ask("twice", CHAT)
            first = await collector.answer()
        finally:
            stopped.process.send_signal(signal.SIGCONT)
        again = await collector.answer()
    assert (first.status, first.replayed, again.replayed) == ("succeeded", False, True)
    assert len(await world.journal(bot)) == 1
    await stopped.wait_for("claim_lost")


async def test_a_message_without_an_id_that_kills_its_workers_is_ended_too(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", {"hang_rate": 1.0})
    now = datetime.now(UTC).replace(microsecond=0)
    deadline = now + timedelta(seconds=600)
    # Two waits are over at the deadline, however slow the machine is: so three deliveries are too many.
    patient = "workers.generation.request.PATIENCE_S=300"
    body = json.dumps({**json.loads(BODY), "deadline": deadline.isoformat()}).encode()
    async with Collector(world, bot) as collector:
        # By the management API, since AMQP clients like to add an id.
        message = {
            "properties": {
                "reply_to": collector.queue,
                "delivery_mode": 2,
                "timestamp": int(now.timestamp()),
            },
            "routing_key": bot,
            "payload": body.decode(),
            "payload_encoding": "string",
        }
        assert (await world.admin.call("POST", "exchanges/{vhost}/requests/publish", message))["routed"]
        for _ in range(3):
            worker = await world.start_worker(constants=patient, KEYWAY_CRASH_LIMIT="1")
            await a_call_under_way(world)
            await kill(world, worker)
        await world.start_worker(constants=patient, KEYWAY_CRASH_LIMIT="1")
        answer = await collector.answer()
    assert answer.error is not None
    assert answer.error.code == "internal"
    assert "delivered 3 times" in answer.error.message

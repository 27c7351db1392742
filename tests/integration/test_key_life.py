"""A key's life: it fails and heals, is refused and taken again, runs out, and dies with its worker."""

import asyncio
import json
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import Any

import pytest
from aio_pika.abc import AbstractIncomingMessage

from contracts import GenerationResult, Keyway
from contracts.errors import KeysExhaustedError, NoUsableKeyError
from tests.harness import PATIENCE_S, World, eventually
from workers.keys.key import Limits

DOOMED = "worker-doomed"


async def ask(keyway: Keyway, number: int = 0, **options: Any) -> GenerationResult:
    messages = [{"role": "user", "content": f"request {number}"}]
    options.setdefault("timeout", 120)
    return await keyway.generate("/chat/completions", model="gpt-4o-mini", messages=messages, **options)


async def becomes(world: World, bot: str, alias: str, status: str) -> None:
    async def there() -> bool:
        return bool((await world.key(bot, alias))["status"] == status)

    await eventually(there, f"{alias} {status}")


async def probes(world: World, bot: str) -> int:
    """How often the provider was asked whether it takes a bot's keys."""
    return sum(call["path"] == "/models" for call in await world.journal(bot))


async def last_hold_ends(world: World, bot: str) -> datetime:
    """When all that is held of a key is free, whatever becomes of those who hold it."""
    ends: list[datetime] = [hold["until"] for hold in (await world.key(bot, "Primary"))["held"]]
    return max(ends)


async def probe_now(world: World, bot: str, alias: str) -> None:
    """Let the time of the key's next probe have come."""
    due = {"$set": {"probe.at": datetime.now(UTC)}}
    await world.mongo.keys.update_one({"automation_id": bot, "alias": alias}, due)


@pytest.mark.waits
async def test_a_key_that_fails_for_a_minute_is_left_out_probed_ramped_and_back(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"error_rate": 1.0, "latency_ms": 100})
    await shared.add_key(bot, "Backup", {"latency_ms": 100})
    asking: list[asyncio.Task[GenerationResult]] = []
    intervals_s: list[int] = []

    async def keep_asking(keyway: Keyway) -> None:
        while True:
            asking.append(asyncio.create_task(ask(keyway, len(asking))))
            await asyncio.sleep(0.2)
            intervals_s.append((await shared.key(bot, "Primary")).get("probe", {}).get("interval_s", 0))

    async def serves_again() -> bool:
        calls = [call for call in await shared.journal(bot) if call["key"] == f"{bot}-Primary"]
        return len([call for call in calls if call["http_status"] == 200]) >= 25

    async with shared.client(bot) as keyway:
        steady = asyncio.create_task(keep_asking(keyway))
        await asyncio.sleep(60)  # the minute in which it fails
        await shared.script(bot, "Primary", latency_ms=100)
        recovered_at = time.time()
        await eventually(serves_again, "Primary serving again", every_s=0.5)
        steady.cancel()
        results = await asyncio.gather(*asking)
    assert {result.status for result in results} == {"succeeded"}

    primary = [call for call in await shared.journal(bot) if call["key"] == f"{bot}-Primary"]
    failed = [call for call in primary if call["http_status"] == 500]
    # Five in a row, what was under way with them, and a trial after each probe.
    assert 5 <= len(failed) <= 25
    assert all(call["at"] < recovered_at + 1 for call in failed)
    assert len([call for call in primary if call["path"] == "/models"]) >= 3
    intervals = [interval for interval, _ in groupby(intervals_s) if interval]
    assert intervals == sorted(intervals)
    assert {10, 20} < set(intervals) <= {5, 10, 20, 40, 80}
    # One trial, and only then more at a time.
    good = [call for call in primary if call["http_status"] == 200 and call["path"] != "/models"]
    first_step = [call for call in good if call["at"] < good[0]["ended_at"] + 4]
    assert all(later["at"] >= earlier["ended_at"] for earlier, later in pairwise(first_step))

    status, stdout, _ = await shared.cli("keys", "show", bot, "Primary", "--json")
    assert status == 0
    history = json.loads(stdout)["history"]
    assert [(entry["from"], entry["to"]) for entry in history[:2]] == [
        ("active", "error"),
        ("error", "active"),
    ]
    assert "calls in a row failed; the last: server_error 500" in history[0]["reason"]
    assert history[-1]["to"] == "active"
    assert {entry["actor"] for entry in history} == {"accounting", "probe"}
    status, stdout, _ = await shared.cli("keys", "show", bot, "Primary")
    assert status == 0
    assert "active → error" in stdout
    await shared.assert_books_equal_journal(bot)


async def test_a_provider_that_never_answers_keeps_no_other_key_from_its_probe(world: World) -> None:
    is_asked, is_given_up = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_asked.set()
        while await reader.read(1024):
            continue
        is_given_up.set()
        writer.close()

    async def stop_and_probe(bot: str) -> None:
        due = {"at": datetime.now(UTC), "interval_s": 60, "cause": "refused"}
        stopped = {"$set": {"status": "error", "probe": due}}
        await world.mongo.keys.update_one({"automation_id": bot}, stopped)

    silent, other = await world.add_automation(), await world.add_automation()
    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await world.add_key(silent, "Primary", base_url=f"http://127.0.0.1:{port}/v1")
        await world.add_key(other, "Primary")
        await world.start_worker()
        await stop_and_probe(silent)
        async with asyncio.timeout(PATIENCE_S):
            await is_asked.wait()
        await stop_and_probe(other)
        await becomes(world, other, "Primary", "active")
        assert not is_given_up.is_set()
        await asyncio.gather(*(service.stop() for service in world.services))


async def test_a_refused_key_is_probed_and_back_when_the_provider_takes_it_again(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"invalid": True})
    async with shared.client(bot) as keyway:
        with pytest.raises(NoUsableKeyError):
            await ask(keyway)
        await becomes(shared, bot, "Primary", "error")
        await probe_now(shared, bot, "Primary")

        async def was_refused_again() -> bool:
            probed = (await shared.key(bot, "Primary"))["probe"]
            return bool(probed.get("last_reason") == "the provider answers 401 invalid_api_key")

        await eventually(was_refused_again, "a probe that says why not")
        assert (await shared.key(bot, "Primary"))["probe"]["interval_s"] == 60
        await shared.script(bot, "Primary")
        await probe_now(shared, bot, "Primary")
        await becomes(shared, bot, "Primary", "active")
        assert (await ask(keyway)).key_alias == "Primary"
    of_key = {"subject": (await shared.key(bot, "Primary"))["_id"]}
    (alert,) = [alert async for alert in shared.mongo.alerts.find(of_key)]
    assert (alert["kind"], alert["times"], alert["label"]) == ("key_error", 1, "Primary")
    assert alert["resolved_at"] is not None


async def test_a_spent_quota_fails_requests_at_once_and_is_tried_less_and_less_until_it_is_back(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"quota_exhausted": True})
    async with shared.client(bot) as keyway:
        for interval_s in (60, 120):
            with pytest.raises(KeysExhaustedError) as refused:
                await ask(keyway)
            assert refused.value.retry_at is not None
            await becomes(shared, bot, "Primary", "exhausted")
            # `GET /models` is answered without quota too: only the trial shows that it is still spent.
            assert (await shared.key(bot, "Primary"))["probe"]["interval_s"] == interval_s
            await probe_now(shared, bot, "Primary")
            await becomes(shared, bot, "Primary", "active")
        await shared.script(bot, "Primary")
        assert (await ask(keyway)).key_alias == "Primary"


async def test_a_provider_that_is_out_is_waited_for(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"down": True})
    async with shared.client(bot) as keyway:
        asking = [asyncio.create_task(ask(keyway, number)) for number in range(8)]
        await becomes(shared, bot, "Primary", "error")
        waiting = asyncio.create_task(ask(keyway, 9))
        before = await probes(shared, bot)

        async def is_probed_again() -> bool:
            return await probes(shared, bot) > before

        # A request that fails at once would have, long before the next look at the provider.
        await eventually(is_probed_again, "the provider asked again")
        assert not waiting.done()
        await shared.script(bot, "Primary")
        assert (await waiting).status == "succeeded"
        results = await asyncio.gather(*asking, return_exceptions=True)
    assert any(isinstance(result, GenerationResult) for result in results)


async def test_eight_workers_stay_within_the_daily_tokens_and_tell_of_it_once(world: World) -> None:
    bot = await world.add_automation()
    longest = 400
    script = {"completion_tokens": {"min": 50, "max": longest}, "latency_ms": 50}
    await world.add_key(bot, "Primary", script, limits=Limits(tokens_per_day=10_000))
    channel = await world.connection.channel()
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind("events", f"key.status_changed.{bot}")
    told: list[dict[str, Any]] = []

    async def hear(message: AbstractIncomingMessage) -> None:
        told.append(json.loads(message.body))

    await queue.consume(hear, no_ack=True)
    await world.start_accounting()
    await asyncio.gather(*(world.start_worker() for _ in range(8)))
    async with world.client(bot) as keyway:
        large = [ask(keyway, number) for number in range(120)]
        # What large ones leave, small ones fill, until not even the smallest fits.
        small = [ask(keyway, number, max_tokens=20) for number in range(80)]
        answers = await asyncio.gather(*large, *small, return_exceptions=True)
    outcomes = Counter(type(answer) for answer in answers)
    assert outcomes.keys() == {GenerationResult, KeysExhaustedError}
    calls = await world.journal(bot)
    changes = sorted(change for call in calls for change in ((call["at"], 1), (call["ended_at"], -1)))
    in_flight = most = 0
    for _, change in changes:
        in_flight += change
        most = max(most, in_flight)
    used = sum(call["total_tokens"] for call in calls)
    assert 10_000 - 2 * longest <= used <= 10_000 + most * longest
    await becomes(world, bot, "Primary", "exhausted")
    await world.assert_books_equal_journal(bot)

    async def all_is_told() -> bool:
        return bool(told) and await world.mongo.outbox.count_documents({}) == 0

    await eventually(all_is_told, "the event, and nothing else to be told of what is booked")
    assert [(event["from"], event["to"]) for event in told] == [("active", "exhausted")]
    assert len((await world.key(bot, "Primary"))["history"]) == 1
    status, stdout, _ = await world.cli("alerts", "list", "--json")
    assert status == 0
    of_key = [alert for alert in json.loads(stdout) if alert["label"] == "Primary"]
    assert [(alert["kind"], alert["times"]) for alert in of_key] == [("key_exhausted", 1)]


@pytest.mark.waits
async def test_what_a_killed_worker_held_is_back_within_two_minutes(world: World) -> None:
    bot = await world.add_automation()
    limits = Limits(requests_per_minute=60, max_in_flight=10)
    await world.add_key(bot, "Primary", {"hang_rate": 1.0}, limits=limits)
    doomed = await world.start_worker(KEYWAY_WORKER_ID=DOOMED)
    async with world.client(bot) as keyway:
        asking = [asyncio.create_task(ask(keyway, number, timeout=170)) for number in range(10)]

        async def all_are_held() -> bool:
            held = (await world.key(bot, "Primary")).get("held", [])
            return bool(sum(hold["n"] for hold in held) == 10)

        await eventually(all_are_held, "ten calls in flight")
        await doomed.stop(signal.SIGKILL)
        await world.script(bot, "Primary")
        assert await last_hold_ends(world, bot) <= await world.mongo.server_time() + timedelta(minutes=2)
        await world.start_worker()
        asking += [asyncio.create_task(ask(keyway, number, timeout=170)) for number in range(10, 60)]
        # What two minutes change is only how the stored times compare with the clock.
        over = {"$set": {"held.$[gone].until": datetime.now(UTC) - timedelta(seconds=1)}}
        filters = [{"gone.w": DOOMED}]
        await world.mongo.keys.update_one({"automation_id": bot}, over, array_filters=filters)
        await world.silence_workers(DOOMED)
        results = await asyncio.gather(*asking)
    assert {result.status for result in results} == {"succeeded"}
    calls = [call for call in await world.journal(bot) if call["http_status"] == 200]
    assert len(calls) == 60

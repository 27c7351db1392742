"""Metrics of real services: they say what the ledger says, add up, and tell of the fleet as it is."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from aio_pika import Message

from contracts import GenerationError, Keyway, names
from infra.metrics import OTHER
from tests.harness import Service, World, eventually
from tests.scraped import Scraped, scrape, services, target
from workers.keys.facts import find_key
from workers.keys.key import Limits
from workers.keys.limits import room, utilisation

NANO = 1_000_000_000
REQUESTS = 40
HELLO: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
TIMES = ("queue", "key_wait", "provider", "back_off", "overhead")


async def ask(keyway: Keyway, text: str, model: str = "gpt-4o-mini") -> str:
    messages = [{"role": "user", "content": text}]
    result = await keyway.generate("/chat/completions", model=model, messages=messages, timeout=120)
    return result.status


async def test_metrics_equal_the_ledger_and_add_up_over_a_worker_that_stops(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Good", {"completion_tokens": {"min": 5, "max": 400}, "latency_ms": 20})
    await shared.add_key(bot, "Flaky", {"error_rate": 0.5})
    own = await shared.start_worker()
    async with shared.client(bot) as keyway:
        statuses = await asyncio.gather(*(ask(keyway, f"first {n}") for n in range(REQUESTS)))

        async def idle() -> bool:
            # A request is counted when it is acknowledged, which comes after its reply.
            found = await scrape(services(shared, "worker"))
            return (found.sum("keyway_requests_in_hand"), found.sum("keyway_calls_in_flight")) == (0, 0)

        await eventually(idle, "nothing in hand")
        # Its numbers are gone with it, but Prometheus has them.
        stopped = await scrape([own])
        assert await own.stop() == 0
        statuses += await asyncio.gather(*(ask(keyway, f"second {n}") for n in range(REQUESTS)))
    assert Counter(statuses) == {"succeeded": 2 * REQUESTS}

    async def all_counted() -> bool:
        found = await scrape(services(shared, "worker")) + stopped
        return found.sum("keyway_requests_total", automation=bot) == 2 * REQUESTS

    await eventually(all_counted, "every request in the metrics")
    metrics = await scrape(services(shared, "worker")) + stopped
    calls = await shared.journal(bot)
    rows = await shared.accounted(bot, len([call for call in calls if call["path"] != "/models"]))
    assert metrics.labels_of("keyway_requests_total", "outcome", automation=bot) == {
        "succeeded": 2 * REQUESTS
    }
    assert metrics.labels_of("keyway_attempts_total", "outcome", automation=bot) == Counter(
        row["outcome"] for row in rows
    )
    assert metrics.labels_of("keyway_attempts_total", "key", automation=bot) == Counter(
        row["key_alias"] for row in rows
    )
    assert len({row["request_id"] for row in rows}) == 2 * REQUESTS
    for kind in ("prompt", "completion"):
        assert metrics.sum("keyway_tokens_total", automation=bot, type=kind) == sum(
            row[f"{kind}_tokens"] for row in rows
        )
    cost = sum(row["cost_nanousd"] for row in rows)
    assert cost > 0
    assert metrics.sum("keyway_cost_usd_total", automation=bot) == pytest.approx(cost / NANO)
    assert_times_add_up(metrics)


def assert_times_add_up(metrics: Scraped) -> None:
    parts = [metrics.sum(f"keyway_request_{name}_seconds_sum") for name in TIMES]
    answered = metrics.sum("keyway_request_seconds_count")
    assert min(parts[0], parts[1], parts[2], parts[4]) > 0
    # The provider's time is in whole milliseconds.
    assert sum(parts) == pytest.approx(metrics.sum("keyway_request_seconds_sum"), abs=0.002 * answered)
    for name in ("queue", "key_wait", "overhead"):
        assert metrics.sum(f"keyway_request_{name}_seconds_count") == answered


async def assert_fails(keyway: Keyway, body: dict[str, Any]) -> None:
    with pytest.raises(GenerationError):
        await keyway.generate("/chat/completions", body)


async def test_each_way_that_a_request_ends_is_counted_and_made_up_models_are_not_told_apart(
    shared: World,
) -> None:
    bot, poor = await shared.add_automation(), await shared.add_automation()
    await shared.add_key(bot, "Only", {"denied_models": ["made-up-1", "made-up-2"]})
    async with shared.client(bot) as keyway:
        for _ in range(2):
            await keyway.generate("/chat/completions", HELLO, request_id="twice")
        for model in ("made-up-1", "made-up-2"):
            await assert_fails(keyway, {**HELLO, "model": model})
    async with shared.connection.channel() as channel:
        requests = await channel.get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
        await requests.publish(Message(b"no json"), bot)
    async with shared.client(poor) as keyway:
        await assert_fails(keyway, HELLO)
    expected = {"succeeded": 1.0, "repeated": 1.0, "provider_rejected": 2.0, "invalid_request": 1.0}

    async def counted() -> bool:
        metrics = await scrape(services(shared, "worker"))
        ends = [
            metrics.labels_of("keyway_requests_total", "outcome", automation=name) for name in (bot, poor)
        ]
        return ends == [expected, {"no_keys": 1.0}]

    await eventually(counted, f"{expected}, and one without keys")
    metrics = await scrape(services(shared, "worker"))
    assert metrics.sum("keyway_reservations_total", result="no_keys") >= 1
    models = metrics.labels_of("keyway_request_provider_seconds_count", "model")
    assert OTHER in models
    assert not [model for model in models if model.startswith("made-up")]


async def counted_rows(accounting: Service) -> float:
    """Rows of the ledger, by the metrics of who wrote them."""
    books = await scrape([accounting])
    return books.sum("keyway_ledger_rows_total") - books.sum("keyway_ledger_rows_replaced_total")


async def uncounted_rows(shared: World, accounting: Service) -> float:
    """Rows of the ledger that are in no metric, when all is booked: tests write some by themselves."""
    seen: list[tuple[float, int]] = []

    async def is_quiet() -> bool:
        seen.append((await counted_rows(accounting), await shared.mongo.usage.count_documents({})))
        return seen[-3:] == [seen[-1]] * 3

    await eventually(is_quiet, "a ledger into which nobody writes", every_s=0.5)
    counted, rows = seen[-1]
    return rows - counted


async def test_accounting_tells_of_the_fleet_as_it_is(shared: World) -> None:
    (accounting,) = services(shared, "accounting")
    uncounted = await uncounted_rows(shared, accounting)
    waits = await shared.add_automation(paused=True)
    async with shared.client(waits) as keyway:
        for _ in range(3):
            await keyway.submit("/chat/completions", HELLO, name="later")
    bot = await shared.add_automation()
    await shared.add_key(bot, "Limited", limits=Limits(requests_per_minute=8, tokens_per_day=100_000))
    await shared.add_key(bot, "Refused", {"invalid": True})
    await shared.add_key(bot, "Off")
    await shared.keys.set_status(bot, "Off", "disabled", "test")
    async with shared.client(bot) as keyway:
        for number in range(4):
            assert await ask(keyway, f"number {number}") == "succeeded"
        await eventually(lambda: is_in_error(shared, bot), "the refused key in error")
        await shared.assert_books_equal_journal(bot)

        async def told() -> bool:
            fleet = await scrape([accounting])
            return (
                fleet.sum("keyway_key_status", automation=bot, key="Refused", status="error") == 1
                and fleet.sum("keyway_automation_processes", automation=bot) == 1
            )

        await eventually(told, "the key's new status in the metrics", every_s=0.5)
    fleet = await scrape([accounting])
    assert fleet.labels_of("keyway_fleet_up", "source") == {"mongodb": 1, "rabbitmq": 1}
    assert fleet.sum("keyway_pool_keys", automation=bot) == 3
    assert fleet.sum("keyway_pool_usable_keys", automation=bot) == 1
    assert fleet.labels_of("keyway_key_status", "key", automation=bot, status="active") == {
        "Limited": 1,
        "Refused": 0,
        "Off": 0,
    }
    view = await find_key(shared.mongo, bot, "Limited")
    used = fleet.labels_of("keyway_key_utilisation_ratio", "limit", automation=bot, key="Limited")
    assert used.keys() == {"requests_per_minute", "tokens_per_day"}
    assert max(used.values()) == pytest.approx(utilisation(view.key, room(view.key, view.now)), abs=1e-6)
    assert 0 <= fleet.sum("keyway_automation_silent_seconds", automation=bot) < 60
    cost = sum(row["cost_nanousd"] for row in await shared.ledger(bot))
    assert fleet.sum("keyway_cost_today_usd", automation=bot) == pytest.approx(cost / NANO)
    assert fleet.sum("keyway_workers_alive") >= 2
    assert fleet.sum("keyway_ledger_lag_seconds_count") > 0

    async def lane_told() -> bool:
        lanes = await scrape([accounting])
        values = (lanes.sum(f"keyway_lane_{name}", automation=waits) for name in ("waiting", "paused"))
        return tuple(values) == (3, 1) and lanes.sum("keyway_lane_oldest_seconds", automation=waits) > 0

    await eventually(lane_told, "three requests that wait", every_s=0.5)

    assert await uncounted_rows(shared, accounting) == uncounted
    handlers = fleet.labels_of("faststream_received_messages_total", "handler")
    assert {"events.usage.recorded", "events.heartbeat"} <= handlers.keys()
    assert not [handler for handler in handlers if bot in handler]


async def is_in_error(world: World, automation: str) -> bool:
    status: str = (await world.key(automation, "Refused"))["status"]
    return status == "error"


async def test_a_port_for_metrics_that_is_taken_stops_the_start_with_one_line(shared: World) -> None:
    _, port = target(shared.services[0]).rsplit(":", 1)
    status, _, err = await shared.cli("worker", KEYWAY_METRICS_PORT=port)
    assert status == 1
    line = f"error: KEYWAY_METRICS_PORT: can't listen on 127.0.0.1:{port}: Address already in use"
    assert err.splitlines()[-1].startswith(line)

"""How many usage events a second accounting books into the ledger and the totals, and whether exactly.

    python -m tests.bench.accounting_rate [--quick]

The events wait in accounting's queue before it starts, of 20 automations with 3 keys and 500 users, and some
come twice. The rate counts from the first rows in the ledger to the last.
"""

import asyncio
import itertools
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from aio_pika import DeliveryMode, Message, connect

from contracts import names
from tests.bench.part import Bench, Finding, Goal, Report, columns, run_alone
from tests.bench.processes import cpu_ms_a_request, cpu_s, memory_mb
from tests.bench.seeding import seed
from tests.builders import usage_recorded
from tests.harness import World, eventually

EVENTS, QUICK_EVENTS = 100_000, 10_000
AUTOMATIONS, USERS = 20, 500
#: Each of so many events comes twice.
REPEATED = 100
#: Messages that are published side by side.
AT_A_TIME = 1000
#: Never met: keys do not exist for the provider here.
BASE_URL = "http://127.0.0.1:9/v1"
#: What of the totals is held against the ledger, besides the number of attempts.
CHECKED = ("prompt_tokens", "completion_tokens", "total_tokens", "cost_nanousd", "latency_ms")
BOOKED_S = 600.0
RATE = Goal("usage events into ledger and totals", 15_000, "a second", at_least=True)


async def publish(bench: Bench, world: World, events: int) -> int:
    """Put so many different events into accounting's queue; how many messages they are."""
    automations = await seed(bench, world, BASE_URL, AUTOMATIONS)
    keys = {
        automation: [key async for key in world.mongo.keys.find({"automation_id": automation})]
        for automation in automations
    }
    messages = 0
    # Not the world's connection: of a queue that it knows, it does not ask the broker again.
    async with await connect(world.environment["KEYWAY_AMQP_URL"]) as connection:
        channel = await connection.channel(publisher_confirms=False)
        exchange = await channel.get_exchange(names.EVENTS_EXCHANGE, ensure=False)
        for start in range(0, events, AT_A_TIME):
            bench.step(f"accounting: publishing event {start:,} of {events:,}")
            end = min(start + AT_A_TIME, events)
            batch = [_event(number, automations, keys) for number in range(start, end)]
            again = batch[::REPEATED]
            await asyncio.gather(*(exchange.publish(message, key) for message, key in (*batch, *again)))
            messages += len(batch) + len(again)

        async def all_there() -> bool:
            queue = await channel.declare_queue(names.ACCOUNTING_QUEUE, passive=True)
            return queue.declaration_result.message_count == messages

        await eventually(all_there, f"{messages} messages in accounting's queue", within_s=60, every_s=0.5)
    return messages


def _event(number: int, automations: list[str], keys: dict[str, list[dict[str, Any]]]) -> tuple[Message, str]:
    automation = automations[number % len(automations)]
    key = keys[automation][number // len(automations) % 3]
    event = usage_recorded(
        event_id=f"r-{number}:1",
        request_id=f"r-{number}",
        automation_id=automation,
        user_id=f"user-{number % USERS}",
        key_id=key["_id"],
        key_alias=key["alias"],
        prompt_tokens=number % 1000,
        completion_tokens=number % 300,
        total_tokens=number % 1000 + number % 300,
        cost_nanousd=number % 100_000,
        occurred_at=datetime.now(UTC),
    )
    message = Message(
        event.model_dump_json().encode(),
        content_type="application/json",
        type=names.USAGE_RECORDED,
        message_id=event.event_id,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
    return message, names.event_routing_key(names.USAGE_RECORDED, automation)


async def differences(world: World, events: int) -> list[str]:
    """Where the books are not exact: rows that lack or are too many, totals that are not their sums."""
    summed = {name: {"$sum": f"${name}"} for name in CHECKED}
    rows = await world.mongo.usage.count_documents({})
    found = [] if rows == events else [f"{rows:,} rows of {events:,} events"]
    ledger = [row async for row in world.mongo.usage.aggregate([{"$group": {"_id": None, **summed}}])]
    by_dimension = [{"$group": {"_id": "$dimension", "attempts": {"$sum": "$attempts"}, **summed}}]
    async for total in world.mongo.usage_daily.aggregate(by_dimension):
        expected = {**ledger[0], "_id": total["_id"], "attempts": events}
        found += [
            f"{name} by {total['_id']}: {total[name]:,} of {expected[name]:,}"
            for name in ("attempts", *CHECKED)
            if total[name] != expected[name]
        ]
    return found


async def report(bench: Bench) -> Report:
    """One accounting process, a queue full of events."""
    events = QUICK_EVENTS if bench.quick else EVENTS
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        messages = await publish(bench, world, events)
        bench.step("accounting: booking")
        accounting = await world.start_accounting()
        pid = accounting.process.pid
        counts = [(time.perf_counter(), await world.mongo.usage.estimated_document_count())]
        before_s = cpu_s([pid])
        first = counts[0][1]

        async def booked() -> bool:
            counts.append((time.perf_counter(), await world.mongo.usage.estimated_document_count()))
            # The estimate counts what a transaction has written before it is committed.
            return counts[-1][1] >= events and await world.mongo.usage.count_documents({}) >= events

        await eventually(booked, f"{events} rows", within_s=BOOKED_S, every_s=0.02)
        cpu_ms = cpu_ms_a_request(before_s, cpu_s([pid]), events - first)
        memory = memory_mb([pid])
        moving = list(itertools.dropwhile(lambda count: not count[1], counts))
        wrong = await differences(world, events)
    rate = (moving[-1][1] - moving[0][1]) / (moving[-1][0] - moving[0][0])
    rows: list[tuple[str, ...]] = [
        ("", "events/s", "CPU ms/event", "memory MB", "exact"),
        ("accounting", f"{rate:,.0f}", f"{cpu_ms:.3f}", f"{memory:.0f}", "no" if wrong else "yes"),
    ]
    table = "\n".join([columns(rows), *wrong])
    title = f"Accounting: {events:,} usage events in {messages:,} messages"
    figures = {"rate": rate, "cpu_ms": cpu_ms, "memory_mb": memory, "wrong": wrong}
    return Report(title, table, [Finding(RATE, 0 if wrong else rate)], figures)


if __name__ == "__main__":
    run_alone(report, "tests.bench.accounting_rate", __doc__ or "")

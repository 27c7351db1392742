"""Accounting is killed again and again while events come up to three times: the totals are exactly right."""

import asyncio
import random
import signal
from collections import Counter

from contracts.messages import UsageRecorded
from tests.chaos.report import Report
from tests.harness import PATIENCE_S, World
from tests.integration.test_accounting import event, publish

#: Events that are published side by side.
PAGE = 500


async def test_the_totals_are_exact_though_accounting_is_killed_again_and_again(
    world: World, is_long: bool, report: Report
) -> None:
    kills, count = (30, 20_000) if is_long else (3, 600)
    bot = await world.add_automation()
    events = [event(bot, number) for number in range(count)]
    deliveries = [e for e in events for _ in range(random.randint(1, 3))]
    random.shuffle(deliveries)
    portion = -(-len(deliveries) // (kills + 1))
    rows_at_kill = []
    for begin in range(0, len(deliveries), portion):
        accounting = await world.start_accounting()
        coming = deliveries[begin : begin + portion]
        pages = [coming[at : at + PAGE] for at in range(0, len(coming), PAGE)]
        publishing = asyncio.create_task(_publish_in_turn(world, pages))
        if begin + portion < len(deliveries):
            await asyncio.sleep(random.uniform(0, 0.5))  # the moment of its death
            await accounting.stop(signal.SIGKILL)
            rows_at_kill.append(len(await world.ledger(bot)))
        async with asyncio.timeout(PATIENCE_S):
            await publishing

    rows = await world.accounted(bot, count)
    assert sorted(row["request_id"] for row in rows) == sorted(e.request_id for e in events)
    for dimension in ("key", "automation", "user", "model"):
        await world.assert_totals_equal_ledger(bot, dimension)
    assert sum(row["total_tokens"] for row in rows) == sum(e.total_tokens for e in events)
    delivered = Counter(e.event_id for e in deliveries)
    report.tell(
        killed=kills,
        events=count,
        deliveries=len(deliveries),
        delivered_more_than_once=sum(times > 1 for times in delivered.values()),
        rows=len(rows),
        kills_amid_work=sum(0 < there < count for there in rows_at_kill),
        lost=count - len(rows),
    )


async def _publish_in_turn(world: World, pages: list[list[UsageRecorded]]) -> None:
    for page in pages:
        await publish(world, page)

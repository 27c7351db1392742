"""Workers are killed again and again: each request has one answer, and the provider is not called twice."""

import asyncio
import random

from tests.chaos.fleet import Fleet
from tests.chaos.report import Report
from tests.chaos.traffic import LATENCY, Traffic
from tests.harness import World

WORKERS = 3


async def test_each_request_has_one_answer_though_workers_are_killed_again_and_again(
    world: World, is_long: bool, report: Report
) -> None:
    kills, requests = (30, 5000) if is_long else (3, 120)
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", LATENCY)
    await world.add_key(bot, "Backup", LATENCY)
    await world.start_accounting()
    fleet = Fleet(world, wait_for_silence=is_long)
    await fleet.start(WORKERS)
    async with Traffic(world, bot) as traffic:
        for portions_left in range(kills + 1, 1, -1):
            answered = len(traffic.answered)
            portion = traffic.ask((requests - traffic.asked) // portions_left)
            some = random.randrange(len(portion) * 3 // 4)
            await traffic.have_answers(answered + some)
            await asyncio.sleep(random.uniform(0, 0.2))
            await fleet.replace_one()
        traffic.ask(requests - traffic.asked)
        verdict = await traffic.finish()
    verdict.assert_kept()
    # What is booked as good was recorded before: nobody calls for it again.
    assert verdict.cleared_up == 0
    assert verdict.requests == requests
    report.tell(killed=fleet.killed, workers=WORKERS, **verdict.figures())

"""A worker is stopped with calls in flight: it finishes or hands back in time, and nothing is done twice."""

import asyncio
import time

from tests.chaos.report import Report
from tests.chaos.traffic import Traffic
from tests.harness import PATIENCE_S, World, eventually
from workers.keys.key import Limits


async def test_a_stopping_worker_finishes_its_calls_and_leaves_the_others_within_its_grace_time(
    world: World, is_long: bool, report: Report
) -> None:
    calls, long_calls, grace_s = (200, 20, 25) if is_long else (40, 8, 120)
    waiting = calls // 4
    bot = await world.add_automation()
    quick = Limits(max_in_flight=calls - long_calls)
    await world.add_key(bot, "Quick", {"held": True}, limits=quick)
    await world.add_key(bot, "Slow", {"held": True}, limits=Limits(max_in_flight=long_calls))
    await world.start_accounting()
    # All of them at once: a worker that takes them four at a time would have finished the first meanwhile.
    worker = await world.start_worker(KEYWAY_GRACE_S=str(grace_s), KEYWAY_LANE_PREFETCH="400")
    async with Traffic(world, bot) as traffic:
        traffic.ask(calls + waiting)

        async def all_are_in_flight() -> bool:
            return await world.simulator.in_flight() == calls

        await eventually(all_are_in_flight, f"{calls} calls in flight")
        began = time.monotonic()
        stopping = asyncio.create_task(worker.stop(within_s=grace_s + PATIENCE_S))
        await worker.wait_for("finishing")
        await world.script(bot, "Quick")
        await traffic.have_answers(calls - long_calls)
        await world.script(bot, "Slow")
        assert await stopping == 0
        stopped_after_s = time.monotonic() - began
        answered_by_the_first = len(traffic.answered)
        await world.start_worker()
        verdict = await traffic.finish()
    verdict.assert_kept()
    assert verdict.called_again == 0
    report.tell(
        in_flight=calls,
        waiting=waiting,
        grace_s=grace_s,
        stopped_after_s=round(stopped_after_s, 1),
        finished_by_the_stopping=answered_by_the_first,
        **verdict.figures(),
    )


async def test_a_call_that_outlasts_the_grace_time_is_handed_back_and_what_it_may_have_cost_is_booked(
    world: World, is_long: bool, report: Report
) -> None:
    calls, grace_s = (200, 5) if is_long else (20, 1)
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", {"hang_rate": 1.0})
    await world.start_accounting()
    worker = await world.start_worker(KEYWAY_GRACE_S=str(grace_s), KEYWAY_LANE_PREFETCH="400")
    async with Traffic(world, bot) as traffic:
        traffic.ask(calls)

        async def all_are_in_flight() -> bool:
            return await world.simulator.in_flight() == calls

        await eventually(all_are_in_flight, f"{calls} calls in flight")
        began = time.monotonic()
        assert await worker.stop(within_s=grace_s + PATIENCE_S) == 0
        stopped_after_s = time.monotonic() - began
        await world.script(bot, "Primary", latency_ms=100)
        await world.start_worker()
        verdict = await traffic.finish()
    verdict.assert_kept()
    assert verdict.called_again == calls
    report.tell(
        in_flight=calls,
        grace_s=grace_s,
        stopped_after_s=round(stopped_after_s, 1),
        handed_back=calls,
        **verdict.figures(),
    )

"""RabbitMQ is out of memory: it takes no message for a while, and afterwards nothing is missing."""

import asyncio
import time

from infra.local.rabbitmq import RabbitMQ
from tests.chaos.erlang import evaluate
from tests.chaos.fleet import Fleet
from tests.chaos.report import Report
from tests.chaos.traffic import LATENCY, Load, Traffic
from tests.harness import World

SET_WATERMARK = "vm_memory_monitor:set_vm_memory_high_watermark"


async def test_nothing_is_lost_though_rabbitmq_blocks_who_publishes(
    world_on_rabbitmq: World, rabbitmq: RabbitMQ, load: Load, is_long: bool, report: Report
) -> None:
    world = world_on_rabbitmq
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", LATENCY)
    await world.start_accounting()
    fleet = Fleet(world, wait_for_silence=True)
    await fleet.start(2)
    blocked_s = 45.0 if is_long else 4.0
    async with Traffic(world, bot) as traffic:
        asking = asyncio.create_task(traffic.keep_asking(load))
        await traffic.flow(load)
        await evaluate(rabbitmq, f"{SET_WATERMARK}({{absolute, 1000000}}).")
        try:
            assert "memory" in await evaluate(rabbitmq, "rabbit_alarm:get_alarms().")
            await asyncio.sleep(blocked_s)
        finally:
            await evaluate(rabbitmq, f"{SET_WATERMARK}(0.4).")
        recovery_s = await traffic.recovery_s(time.monotonic())
        asking.cancel()
        verdict = await traffic.finish()
    fleet.assert_none_restarted()
    report.tell(blocked_s=blocked_s, recovery_s=round(recovery_s, 1), **verdict.figures())
    verdict.assert_kept()
    report.assert_recovered(recovery_s)

"""RabbitMQ is out of memory: it takes no message for a while, and afterwards nothing is missing."""

import asyncio
import time
from pathlib import Path

from tests.chaos.fleet import Fleet
from tests.chaos.own_services import addresses_of, own_rabbitmq
from tests.chaos.rabbitmqctl import rabbitmqctl
from tests.chaos.report import Report
from tests.chaos.test_killed_services import PER_SECOND
from tests.chaos.traffic import LATENCY, Traffic
from tests.harness import new_world

WATERMARK = "set_vm_memory_high_watermark"


async def test_nothing_is_lost_though_rabbitmq_blocks_who_publishes(
    backing: dict[str, str], tmp_path: Path, is_long: bool, report: Report
) -> None:
    async with (
        own_rabbitmq(tmp_path) as rabbitmq,
        new_world({**backing, **addresses_of(rabbitmq)}, tmp_path) as world,
    ):
        bot = await world.add_automation()
        await world.add_key(bot, "Primary", LATENCY)
        await world.start_accounting()
        fleet = Fleet(world, wait_for_silence=True)
        await fleet.start(2)
        blocked_s = 45.0 if is_long else 4.0
        async with Traffic(world, bot) as traffic:
            load = asyncio.create_task(traffic.keep_asking(PER_SECOND))
            await traffic.flow()
            await rabbitmqctl(rabbitmq, WATERMARK, "absolute", "1MB")
            await asyncio.sleep(blocked_s)
            await rabbitmqctl(rabbitmq, WATERMARK, "0.4")
            recovery_s = await traffic.recovery_s(time.monotonic(), within_s=90)
            load.cancel()
            verdict = await traffic.finish(within_s=120)
        fleet.assert_none_restarted()
        report.tell(blocked_s=blocked_s, recovery_s=round(recovery_s, 1), **verdict.figures())
        verdict.assert_kept()
        report.assert_recovered(recovery_s)

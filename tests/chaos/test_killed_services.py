"""RabbitMQ and MongoDB are killed under load: nothing confirmed is lost, and all goes on by itself."""

import asyncio
from pathlib import Path

from infra.local.mongod import Mongod
from infra.local.rabbitmq import RabbitMQ
from tests.chaos.fleet import Fleet
from tests.chaos.own_services import kill_and_restart, own_mongod
from tests.chaos.report import Report
from tests.chaos.traffic import LATENCY, Load, Traffic
from tests.harness import World, new_world


async def test_nothing_confirmed_is_lost_though_rabbitmq_is_killed(
    world_on_rabbitmq: World, rabbitmq: RabbitMQ, load: Load, is_long: bool, report: Report
) -> None:
    await survive(world_on_rabbitmq, rabbitmq, load, report, kills=5 if is_long else 1)


async def test_nothing_confirmed_is_lost_though_mongodb_is_killed(
    backing: dict[str, str], tmp_path: Path, load: Load, is_long: bool, report: Report
) -> None:
    async with own_mongod(tmp_path) as mongod:
        addresses = {**backing, "KEYWAY_MONGO_URL": mongod.url.get_secret_value()}
        async with new_world(addresses, tmp_path) as world:
            await survive(world, mongod, load, report, kills=5 if is_long else 1)


async def survive(
    world: World, service: RabbitMQ | Mongod, load: Load, report: Report, *, kills: int
) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", LATENCY)
    await world.start_accounting()
    fleet = Fleet(world, wait_for_silence=True)
    await fleet.start(2)
    recoveries = []
    async with Traffic(world, bot) as traffic:
        asking = asyncio.create_task(traffic.keep_asking(load))
        for _ in range(kills):
            await traffic.flow(load)
            back = await kill_and_restart(service, away_s=2)
            recoveries.append(await traffic.recovery_s(back))
        asking.cancel()
        verdict = await traffic.finish()
    fleet.assert_none_restarted()
    report.tell(killed=kills, slowest_recovery_s=round(max(recoveries), 1), **verdict.figures())
    verdict.assert_kept()
    report.assert_recovered(max(recoveries))

"""A member of a cluster is killed under load: the others carry on by themselves, and nothing is lost."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from infra.management import vhost_of
from tests.chaos.fleet import Fleet
from tests.chaos.own_services import addresses_of
from tests.chaos.rabbitmq_cluster import NODES, rabbitmq_cluster
from tests.chaos.replica_set import replica_set
from tests.chaos.report import Report
from tests.chaos.traffic import LATENCY, Load, Traffic
from tests.harness import World, eventually, new_world


async def test_nothing_is_lost_though_the_primary_of_a_replica_set_is_killed(
    backing: dict[str, str], tmp_path: Path, load: Load, report: Report
) -> None:
    async with (
        replica_set(tmp_path) as members,
        new_world({**backing, "KEYWAY_MONGO_URL": members.url}, tmp_path) as world,
    ):

        async def kill() -> float:
            primary = await members.primary()
            primary.kill()
            await primary.wait()
            await members.primary()
            return time.monotonic()

        await survive_loss(world, load, report, kill)


async def test_nothing_is_lost_though_the_node_that_leads_the_queues_is_killed(
    backing: dict[str, str], tmp_path: Path, load: Load, report: Report
) -> None:
    async with rabbitmq_cluster(tmp_path) as cluster:
        survivor, *_, doomed = cluster.nodes
        # To delete a vhost, RabbitMQ needs every node.
        addresses = {**backing, **addresses_of(survivor)}
        async with new_world(addresses, tmp_path, leaves_vhost=True) as world:

            async def all_are_led_by_the_doomed() -> bool:
                queues = [queue for queue in await world.admin.queues() if queue["type"] == "quorum"]
                assert all(len(queue["members"]) == NODES for queue in queues)
                return {queue["leader"] for queue in queues} == {doomed.node_name}

            async def kill() -> float:
                await cluster.let_lead(doomed, vhost_of(world.settings))
                await eventually(all_are_led_by_the_doomed, "every queue led by one node")
                doomed.kill()
                await doomed.wait()
                return time.monotonic()

            await survive_loss(world, load, report, kill)


async def survive_loss(
    world: World, load: Load, report: Report, kill: Callable[[], Awaitable[float]]
) -> None:
    """Kill once under load; `kill` returns when the others were ready to carry on."""
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", LATENCY)
    await world.start_accounting()
    fleet = Fleet(world, wait_for_silence=True)
    await fleet.start(2)
    async with Traffic(world, bot) as traffic:
        asking = asyncio.create_task(traffic.keep_asking(load))
        await traffic.flow(load)
        began = time.monotonic()
        ready = await kill()
        recovery_s = await traffic.recovery_s(ready)
        await traffic.flow(load)
        asking.cancel()
        verdict = await traffic.finish()
    fleet.assert_none_restarted()
    report.tell(elected_after_s=round(ready - began, 1), recovery_s=round(recovery_s, 1), **verdict.figures())
    verdict.assert_kept()
    report.assert_recovered(recovery_s)

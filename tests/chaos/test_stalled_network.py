"""The workers' network stalls under load: nothing confirmed is lost, and all goes on by itself."""

import asyncio
import signal
import time
from urllib.parse import urlsplit

from tests.chaos.fleet import Fleet
from tests.chaos.proxy import Proxy, proxy_to
from tests.chaos.report import Report
from tests.chaos.traffic import LATENCY, Load, Traffic
from tests.harness import World

LONG_STALL_S = 45.0
#: Longer than three heartbeats of 2 s.
QUICK_STALL_S = 8.0


async def test_nothing_is_lost_though_the_network_to_rabbitmq_stalls(
    world: World, load: Load, is_long: bool, report: Report
) -> None:
    url = urlsplit(world.settings.amqp_url.get_secret_value())
    assert url.port is not None
    async with proxy_to(url.port) as proxy:
        credentials = url.netloc.rpartition("@")[0]
        proxied = url._replace(netloc=f"{credentials}@{url.hostname}:{proxy.port}").geturl()
        # Longer than RabbitMQ waits for a heartbeat: it closes the connections, and delivers anew.
        stall_s = LONG_STALL_S if is_long else QUICK_STALL_S
        if not is_long:
            proxied += "?heartbeat=2"
        await survive_stall(world, proxy, load, report, stall_s, KEYWAY_AMQP_URL=proxied)


async def test_nothing_is_lost_though_the_network_to_mongodb_stalls(
    world: World, load: Load, is_long: bool, report: Report
) -> None:
    url = urlsplit(world.settings.mongo_url.get_secret_value())
    assert url.port is not None
    async with proxy_to(url.port) as proxy:
        # Without `directConnection` the driver would go to the address that the replica set has of itself.
        proxied = f"mongodb://{url.hostname}:{proxy.port}/?directConnection=true"
        stall_s = LONG_STALL_S if is_long else QUICK_STALL_S
        await survive_stall(world, proxy, load, report, stall_s, KEYWAY_MONGO_URL=proxied)


async def test_a_worker_stops_within_its_grace_time_though_rabbitmq_can_not_be_reached(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    url = urlsplit(world.settings.amqp_url.get_secret_value())
    assert url.port is not None
    async with proxy_to(url.port) as proxy:
        credentials = url.netloc.rpartition("@")[0]
        proxied = url._replace(netloc=f"{credentials}@{url.hostname}:{proxy.port}").geturl()
        worker = await world.start_worker(KEYWAY_AMQP_URL=proxied, KEYWAY_GRACE_S="3")
    await worker.wait_for("Connection refused")
    try:
        assert await worker.stop() == 0
    finally:
        await worker.stop(signal.SIGKILL)


async def survive_stall(
    world: World, proxy: Proxy, load: Load, report: Report, stall_s: float, **environment: str
) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", LATENCY)
    await world.start("accounting", ready="accounting_ready", clock_offset_s=0, **environment)
    fleet = Fleet(world, wait_for_silence=True, **environment)
    await fleet.start(2)
    async with Traffic(world, bot) as traffic:
        asking = asyncio.create_task(traffic.keep_asking(load))
        await traffic.flow(load)
        proxy.stall()
        await asyncio.sleep(stall_s)
        proxy.resume()
        recovery_s = await traffic.recovery_s(time.monotonic())
        asking.cancel()
        verdict = await traffic.finish()
    fleet.assert_none_restarted()
    # While they have their network still.
    await asyncio.gather(*(service.stop() for service in world.services))
    report.tell(stalled_s=stall_s, recovery_s=round(recovery_s, 1), **verdict.figures())
    verdict.assert_kept()
    report.assert_recovered(recovery_s)

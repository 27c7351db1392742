"""A RabbitMQ or a MongoDB of one test's own, to be killed; the other one is everybody's."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra.local.mongod import Mongod
from infra.local.ports import choose_ports
from infra.local.rabbitmq import RabbitMQ, RabbitPorts
from tests.chaos.erlang import evaluate

RABBITMQ_PORTS = dict.fromkeys(("amqp", "management", "prometheus", "distribution", "epmd"))


@asynccontextmanager
async def own_rabbitmq(folder: Path) -> AsyncIterator[RabbitMQ]:
    rabbitmq = RabbitMQ(folder / "rabbitmq", RabbitPorts(**choose_ports(RABBITMQ_PORTS, {})))
    try:
        await rabbitmq.start()
        await rabbitmq.wait_ready()
        yield rabbitmq
    finally:
        rabbitmq.kill()  # nobody needs its data any more
        await rabbitmq.stop()


@asynccontextmanager
async def own_mongod(folder: Path) -> AsyncIterator[Mongod]:
    mongod = Mongod(folder / "mongod", choose_ports({"mongod": None}, {})["mongod"])
    try:
        await mongod.start()
        await mongod.wait_ready()
        yield mongod
    finally:
        mongod.kill()
        await mongod.stop()


def addresses_of(rabbitmq: RabbitMQ) -> dict[str, str]:
    """The settings that name it."""
    return {
        "KEYWAY_AMQP_URL": rabbitmq.amqp_url.get_secret_value(),
        "KEYWAY_AMQP_ADMIN_URL": rabbitmq.amqp_admin_url.get_secret_value(),
    }


async def kill_and_restart(service: RabbitMQ | Mongod, *, away_s: float) -> float:
    """End it without warning, and start it again on what it had on disk after so long.

    Returns:
        When it was back (monotonic).
    """
    if isinstance(service, RabbitMQ):
        await _write_names_of_queues(service)
    service.kill()
    await service.wait()
    await asyncio.sleep(away_s)
    await service.start()
    await service.wait_ready()
    return time.monotonic()


async def _write_names_of_queues(rabbitmq: RabbitMQ) -> None:
    """Let it write down now which quorum queues it has; else it does so seconds after their declaration.

    A queue whose name is not on disk has no leader after a kill, on RabbitMQ 3.10 (docs/reliability.md).
    """
    await evaluate(rabbitmq, "ok = dets:sync(ra_directory_reverse).")

"""One Prometheus for all tests here, over the shared Keyway with all of its services."""

import signal
from collections.abc import AsyncIterator

import pytest

from tests.console import Console
from tests.harness import World
from tests.monitoring.prometheus import Prometheus, rabbitmq_target, run_prometheus, targets


@pytest.fixture(scope="module")
async def prometheus(
    shared: World, leasing: World, console: Console, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes every service, RabbitMQ, and a worker that is dead."""
    dead = await shared.start_worker()
    await dead.stop(signal.SIGKILL)
    jobs = {**targets(shared), "rabbitmq": [await rabbitmq_target(shared)]}
    async with run_prometheus(tmp_path_factory.mktemp("prometheus"), jobs) as running:
        yield running

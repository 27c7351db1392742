"""How much is harmed: `--chaos quick` (the default) shows each promise within seconds; `--chaos long` has the
figures of docs/reliability.md.
"""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.local.rabbitmq import RabbitMQ
from tests.chaos.own_services import addresses_of, own_rabbitmq
from tests.chaos.report import Report
from tests.chaos.traffic import Load
from tests.harness import World, new_world

HERE = Path(__file__).parent
#: What a scenario may take in its long form, in seconds.
LONG_TIMEOUT_S = 1800
QUICK_SEED = 13


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("chaos") == "long":
        for item in items:
            if item.path.is_relative_to(HERE):
                item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))


@pytest.fixture
def is_long(pytestconfig: pytest.Config) -> bool:
    """Whether this is the long form."""
    return bool(pytestconfig.getoption("chaos") == "long")


@pytest.fixture
def seed(is_long: bool) -> int:
    """What chance begins with: anew each time in the long form, and as ever in the quick one."""
    return secrets.randbits(32) if is_long else QUICK_SEED


@pytest.fixture
def report(request: pytest.FixtureRequest, is_long: bool) -> Report:
    """Where a scenario tells its figures."""
    return Report(request.node.name, "long" if is_long else "quick")


@pytest.fixture
def load(is_long: bool) -> Load:
    """How much an automation asks while something is harmed."""
    return Load(per_second=20.0, some=40) if is_long else Load(per_second=8.0, some=10)


@pytest.fixture(scope="session")
async def harmed_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RabbitMQ]:
    """One RabbitMQ for all tests that kill or reconfigure it; each leaves it as it was."""
    async with own_rabbitmq(tmp_path_factory.mktemp("harmed")) as rabbitmq:
        yield rabbitmq


@pytest.fixture
async def rabbitmq(harmed_rabbitmq: RabbitMQ) -> RabbitMQ:
    """A RabbitMQ that may be killed, and that runs whatever became of the test before."""
    if harmed_rabbitmq.pid is None:
        await harmed_rabbitmq.start()
        await harmed_rabbitmq.wait_ready()
    return harmed_rabbitmq


@pytest.fixture
async def world_on_rabbitmq(
    backing: dict[str, str], rabbitmq: RabbitMQ, tmp_path: Path
) -> AsyncIterator[World]:
    """A Keyway on the RabbitMQ that may be killed."""
    async with new_world({**backing, **addresses_of(rabbitmq)}, tmp_path) as world:
        yield world

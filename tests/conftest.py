"""Real services for the whole run: those that the environment names, or our own."""

import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings

from infra.local.stack import backing_services
from tests.console import Console, open_console
from tests.harness import PRELOAD, World, new_world
from tests.preloaded import BYTECODE, load

os.environ[PRELOAD] = "yes"
URLS = ("KEYWAY_AMQP_URL", "KEYWAY_AMQP_ADMIN_URL", "KEYWAY_MONGO_URL")
#: Set where RabbitMQ and MongoDB end with the run.
OWN_BACKING = "KEYWAY_TESTS_OWN_BACKING"
#: What else the environment may say to a run; nothing of it reaches a test by itself.
OF_THE_RUN = (*URLS, OWN_BACKING, PRELOAD, "KEYWAY_CHAOS", "KEYWAY_CHAOS_REPORT")
#: So long before midnight, in seconds, no test is begun that stands on services: books are a day's.
EVENING_S = 120
# A busy machine is slow, not wrong; and each run tries the same examples. To look for others, and for longer:
# `.venv/bin/pytest --hypothesis-profile search tests/unit`.
settings.register_profile("search", deadline=None, max_examples=3000)
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")
BACKING = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let one choose how much `tests/chaos` harms."""
    parser.addoption(
        "--chaos",
        choices=("quick", "long"),
        default=os.environ.get("KEYWAY_CHAOS", "quick"),
        help="how long the scenarios of tests/chaos are: quick, or long with all of their figures",
    )


if sys.dont_write_bytecode:
    # Modules compiled anew would take most of the start of each process, those of `-n` included.
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(BYTECODE)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(BYTECODE)


def pytest_configure() -> None:
    """Whatever the caller has set for a Keyway of their own is not for those of the tests."""
    for name in [name for name in os.environ if name.startswith(("KEYWAY_", "OPENAI_", "OTEL_"))]:
        if name not in OF_THE_RUN:
            del os.environ[name]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let midnight pass first."""
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    left_s = (midnight - now).total_seconds()
    if left_s < EVENING_S and "backing" in getattr(item, "fixturenames", ()):
        time.sleep(left_s)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Where tests run in several processes (`-n`), start the services once, before those processes."""
    config = session.config
    is_controller = not hasattr(config, "workerinput") and config.getoption("numprocesses", None)
    if not is_controller or all(name in os.environ for name in URLS):
        return
    stack = config.stash[BACKING] = ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyway-tests-")))
    portal = stack.enter_context(start_blocking_portal())
    with ThreadPoolExecutor() as meanwhile:
        # What is imported here is compiled once; those processes would all compile it at the same time.
        loading = meanwhile.submit(load)
        services = stack.enter_context(portal.wrap_async_context_manager(backing_services(folder)))
        loading.result()
    os.environ.update({name: services.environment[name] for name in URLS} | {OWN_BACKING: "yes"})


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what `pytest_sessionstart` started, after the processes that use it."""
    if (stack := config.stash.get(BACKING, None)) is not None:
        stack.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have one process begin with those that wait, and another with those that share what is dear."""
    share = len(items) // getattr(config, "workerinput", {}).get("workercount", 1)
    waiting = [item for item in items if item.get_closest_marker("waits")]
    together = [item for item in items if item.get_closest_marker("together")]
    begun_first = {*waiting, *together}
    others = [item for item in items if item not in begun_first]
    beside = max(0, share - len(waiting))
    items[:] = [*waiting, *others[:beside], *together, *others[beside:]]


@pytest.fixture(scope="session")
async def backing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """Addresses of a real RabbitMQ and a real MongoDB."""
    if all(name in os.environ for name in URLS):
        yield {name: os.environ[name] for name in URLS}
        return
    async with backing_services(tmp_path_factory.mktemp("backing")) as services:
        os.environ[OWN_BACKING] = "yes"
        yield {name: services.environment[name] for name in URLS}


@pytest.fixture
async def world(backing: dict[str, str], tmp_path: Path) -> AsyncIterator[World]:
    """A Keyway of its own: vhost, database, simulator; processes are started by the test."""
    async with new_world(backing, tmp_path) as fresh:
        yield fresh


def world_of_the_run(backing: dict[str, str], folder: Path) -> AbstractAsyncContextManager[World]:
    """A Keyway for many tests: deleting what they leave takes RabbitMQ longer than ending."""
    return new_world(backing, folder, leaves_vhost=OWN_BACKING in os.environ)


@pytest.fixture(scope="session")
async def shared(backing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One running Keyway for all tests that bring automations of their own: accounting and two workers."""
    async with world_of_the_run(backing, tmp_path_factory.mktemp("shared")) as fresh:
        fresh.environment["KEYWAY_METRICS_PORT"] = "0"
        await fresh.start_accounting()
        await fresh.start_worker()
        await fresh.start_worker()
        yield fresh


@pytest.fixture(scope="session")
async def console(shared: World) -> AsyncIterator[Console]:
    """One running console over the shared Keyway."""
    async with open_console(shared) as opened:
        yield opened


@pytest.fixture(scope="session")
async def unserved(backing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A Keyway without workers, for tests that answer requests themselves."""
    async with world_of_the_run(backing, tmp_path_factory.mktemp("unserved")) as fresh:
        yield fresh


@pytest.fixture(scope="session")
async def leasing(shared: World) -> World:
    """The shared Keyway, which lends keys too."""
    await shared.start_leasing()
    return shared

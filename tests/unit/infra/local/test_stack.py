"""The stack with stand-ins for its services, and addresses from outside instead of RabbitMQ and MongoDB."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.errors import StackError
from infra.local.home import Home
from infra.local.leftovers import marked
from infra.local.readiness import logs_event
from infra.local.services import ServiceSpec
from infra.local.stack import Layout, Stack, StackInfo, outside_services
from infra.local.state import running_state
from infra.local.supervisor import stop
from tests.harness import eventually

OUTSIDE = {
    "KEYWAY_AMQP_URL": "amqp://user:pass@broker/keyway",
    "KEYWAY_AMQP_ADMIN_URL": "http://user:pass@broker:15672",
    "KEYWAY_MONGO_URL": "mongodb://db/?replicaSet=rs0",
}
READY = """echo '{"event": "worker_ready"}'"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name, value in OUTSIDE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KEYWAY_MASTER_KEYS", raising=False)
    return Home(tmp_path / "home")


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def worker(script: str = f"{READY}; exec sleep 60", count: int = 1) -> ServiceSpec:
    return ServiceSpec("generation", shell(script), logs_event("worker_ready"), count=count)


class Lines:
    """What the stack reports, as it comes."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, line: str) -> None:
        self._queue.put_nowait(line)

    async def until(self, part: str) -> None:
        while part not in await self._queue.get():
            pass


@asynccontextmanager
async def running(home: Home, layout: Layout, lines: Lines) -> AsyncIterator[tuple[Stack, StackInfo]]:
    with home.lock():
        stack = Stack(home, layout, lines)
        try:
            info = await stack.start()
            supervision = asyncio.create_task(stack.supervise())
            yield stack, info
            supervision.cancel()
            await asyncio.wait({supervision})
        finally:
            await stack.stop()


async def test_what_the_environment_names_is_used_and_nothing_is_started_for_it(home: Home) -> None:
    async with running(home, Layout(services=[worker()]), Lines()) as (stack, info):
        assert info.amqp_url.get_secret_value() == OUTSIDE["KEYWAY_AMQP_URL"]
        assert info.mongo_url.get_secret_value() == OUTSIDE["KEYWAY_MONGO_URL"]
        assert stack.pids().keys() == {"supervisor", "generation"}


async def test_secrets_reach_a_service_by_its_environment_and_nowhere_else(home: Home) -> None:
    script = f'test -n "$KEYWAY_AMQP_URL" && test -n "$KEYWAY_MASTER_KEYS" && {READY}; exec sleep 60'
    async with running(home, Layout(services=[worker(script)]), Lines()) as (stack, info):
        (pid,) = stack.pids()["generation"]
        command = Path(f"/proc/{pid}/cmdline").read_text()  # noqa: ASYNC240 - it is in memory
        assert not any(secret in command for secret in info.environment.values())
        assert "pass" not in repr(info)


async def test_a_running_stack_is_written_down_and_a_stopped_one_is_not(home: Home) -> None:
    async with running(home, Layout(services=[worker(count=2)]), Lines()) as (stack, info):
        state = running_state(home)
        assert state is not None
        assert state.ready
        assert state.pids == stack.pids()
        assert len(state.pids["generation"]) == 2
        assert StackInfo.of(home, state) == info
    assert running_state(home) is None


async def test_a_service_that_dies_comes_back_with_its_new_id_written_down(home: Home) -> None:
    lines = Lines()
    async with running(home, Layout(services=[worker()]), lines) as (stack, _):
        (old,) = stack.pids()["generation"]
        os.kill(old, signal.SIGKILL)
        await lines.until("generation was ended by signal 9; starting it again in 0.5 s")
        await lines.until("generation is back")
        state = running_state(home)
        assert state is not None
        assert state.pids["generation"] == stack.pids()["generation"] != [old]


async def test_services_start_once_init_is_through(home: Home) -> None:
    done = home.path / "initialised"
    init, service = shell(f"touch {done}"), worker(f"test -f {done} && {READY}; exec sleep 60")
    async with running(home, Layout(init, [service]), Lines()):
        assert done.exists()


async def test_a_failing_init_gives_its_reason_and_leaves_nothing_behind(home: Home) -> None:
    layout = Layout(shell("echo 'error: no vhost' >&2; exit 1"), [worker()])
    with pytest.raises(StackError, match=r"^init failed: no vhost \(see "):
        async with running(home, layout, Lines()):
            pass
    assert marked(home.path) == []
    assert running_state(home) is None


async def test_a_failing_service_gives_its_reason_and_ends_the_others(home: Home) -> None:
    failing = ServiceSpec("accounting", shell("echo 'error: no luck' >&2; exit 3"), logs_event("never"))
    with pytest.raises(StackError, match=r"^accounting ended with status 3: no luck \(see "):
        async with running(home, Layout(services=[worker(), failing]), Lines()):
            pass
    assert marked(home.path) == []


async def test_what_a_killed_supervisor_left_is_gone_before_the_next_start(home: Home) -> None:
    home.make()
    layout = Layout(services=[worker()])
    first, second = (Stack(home, layout, Lines()) for _ in range(2))
    try:
        await first.start()
        (left,) = first.pids()["generation"]
        # It knows nothing of the first, as after a SIGKILL.
        await second.start()

        async def has_its_own_alone() -> bool:
            # Amid an `exec` a process has no environment, and so no mark.
            return [process.pid for process in marked(home.path)] == second.pids()["generation"]

        await eventually(has_its_own_alone, "the process of the second start alone")
        assert second.pids()["generation"] != [left]
    finally:
        await second.stop()
        await first.stop()


async def test_down_with_nothing_running_finds_nothing(home: Home) -> None:
    assert await stop(home) == 0


async def test_a_master_key_from_outside_is_the_one_that_counts(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYWAY_MASTER_KEYS", "mine:c2VjcmV0")
    async with running(home, Layout(), Lines()) as (_, info):
        assert info.environment["KEYWAY_MASTER_KEYS"] == "mine:c2VjcmV0"
        state = running_state(home)
        assert state is not None
        assert not state.own_master_key
    assert not (home.path / "master.key").exists()


def test_one_address_of_rabbitmq_without_the_other_is_refused() -> None:
    with pytest.raises(StackError, match="KEYWAY_AMQP_URL is set but KEYWAY_AMQP_ADMIN_URL is not"):
        outside_services({"KEYWAY_AMQP_URL": "amqp://broker"})

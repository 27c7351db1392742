import asyncio

import pytest
from structlog.testing import capture_logs

from infra import background_tasks
from infra.background_tasks import BackgroundTasks


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> BackgroundTasks:
    monkeypatch.setattr(background_tasks, "RESTART_S", 0.0)
    return BackgroundTasks("owner")


async def test_a_loop_that_fails_is_run_again_and_the_log_says_so(tasks: BackgroundTasks) -> None:
    runs = 0
    again = asyncio.Event()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("what went wrong")
        again.set()
        await asyncio.Event().wait()

    with capture_logs() as logged:
        tasks.keep("loop", run)
        await again.wait()
        await tasks.close()
    assert [(line["event"], line["task"]) for line in logged] == [("task_restarted", "owner loop")]
    assert len(tasks) == 0


async def test_a_loop_that_returns_is_not_run_again(tasks: BackgroundTasks) -> None:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1

    await tasks.keep("loop", run)
    assert runs == 1


async def test_a_task_that_fails_is_logged_though_nobody_awaits_it(tasks: BackgroundTasks) -> None:
    async def fail() -> None:
        raise ValueError("what went wrong")

    with capture_logs() as logged:
        tasks.start("once", fail())
        await tasks.drain()
        await asyncio.sleep(0)
    assert [(line["event"], line["task"]) for line in logged] == [("task_failed", "owner once")]


async def test_what_is_done_every_so_often_goes_on_after_an_error_that_may_pass(
    tasks: BackgroundTasks,
) -> None:
    turns = 0
    done = asyncio.Event()

    async def work() -> None:
        nonlocal turns
        turns += 1
        if turns == 2:
            raise ConnectionError("away")
        if turns == 3:
            done.set()

    with capture_logs() as logged:
        tasks.every(0, "turns", work, passes=(ConnectionError,))
        await done.wait()
        await tasks.close()
    assert [(line["event"], line["task"], line["error"]) for line in logged] == [
        ("task_delayed", "owner turns", "ConnectionError")
    ]


async def test_closing_waits_for_what_tasks_do_at_their_end(tasks: BackgroundTasks) -> None:
    ended = False

    async def tidy() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended = True

    tasks.start("tidy", tidy())
    await asyncio.sleep(0)
    await tasks.close()
    assert ended

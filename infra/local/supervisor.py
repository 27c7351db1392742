"""The process that runs a stack until it is told to stop: in the foreground, or detached from its terminal.

    python -m infra.local.supervisor --home DIRECTORY --workers N [--no-simulator]

is what `keyway up --detach` leaves running.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from infra.errors import PlatformError
from infra.local import leftovers
from infra.local.home import Home
from infra.local.stack import LEFTOVERS_GRACE_S, Layout, Stack, StackInfo
from infra.local.state import running_state, supervisor_pid
from infra.local.supervision import Report

POLL_S = 0.1
#: Services have 30 s, then RabbitMQ and mongod 10; the rest is for a busy machine.
STOP_S = 60.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OnReady: TypeAlias = Callable[[StackInfo], Awaitable[None]]


async def run(home: Home, layout: Layout, report: Report, on_ready: OnReady | None = None) -> None:
    """Start a stack and keep it up until SIGINT, SIGTERM or SIGHUP; a second signal kills at once.

    Args:
        home: the data directory.
        layout: which parts there are.
        report: takes lines for the terminal.
        on_ready: called once everything is ready, beside the supervision.

    Raises:
        AlreadyRunningError: another stack uses the directory.
        StackError: a part can't be started; nothing is left behind.
    """
    with home.lock():
        stack = Stack(home, layout, report)
        told = asyncio.Event()

        def on_signal() -> None:
            if told.is_set():
                stack.kill()
                report("killing everything")
            else:
                told.set()
                report("stopping; once more kills everything at once")

        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, on_signal)
        tasks = {serving := asyncio.create_task(_serve(stack, on_ready)), asyncio.create_task(told.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await stack.stop()
        if not serving.cancelled():
            serving.result()
        report("stopped")


async def stop(home: Home) -> int:
    """Stop the supervisor of this directory, and what an earlier one left, and wait until they are gone.

    Returns:
        How many processes there were.
    """
    count = len(leftovers.marked(home.path))
    state = running_state(home)
    if state:
        count += 1
        pid = supervisor_pid(state)
        os.kill(pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await _gone(pid, state.supervisor_started)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
    await leftovers.end(leftovers.marked(home.path), LEFTOVERS_GRACE_S)
    return count


async def clear(home: Home) -> None:
    """Remove all data of a directory that no stack uses.

    Raises:
        AlreadyRunningError: one does.
    """
    with home.lock():
        await leftovers.end(leftovers.marked(home.path), grace_s=0)
        home.clear()


async def _serve(stack: Stack, on_ready: OnReady | None) -> None:
    info = await stack.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(stack.supervise())
        if on_ready:
            await on_ready(info)


async def _gone(pid: int, started: int) -> None:
    while leftovers.started_at(pid) == started:  # noqa: ASYNC110 - not our child, so nothing tells us
        await asyncio.sleep(POLL_S)


def _report(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of a detached supervisor."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.supervisor")
    parser.add_argument("--home", type=Path, required=True, help="the data directory")
    parser.add_argument("--workers", type=int, required=True, help="how many generation workers run")
    parser.add_argument("--no-simulator", action="store_true", help="the provider is somewhere else")
    options = parser.parse_args(arguments)
    layout = Layout.whole(options.workers, simulator=not options.no_simulator)
    try:
        asyncio.run(run(Home(options.home), layout, _report))
    except PlatformError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

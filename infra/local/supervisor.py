"""The process that runs a stack until it is told to stop: in the foreground, or detached from its terminal.

    python -m infra.local.supervisor --home DIRECTORY --workers N [--no-simulator]

is what `keyway up --detach` leaves running; what it reports goes to `logs/up.log`.
"""

import argparse
import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from infra.errors import PlatformError, StackError
from infra.local import leftovers
from infra.local.home import Home
from infra.local.stack import Layout, Stack, StackInfo
from infra.local.state import StackState, running_state, supervisor_pid
from infra.local.supervision import Report

LOG = "up.log"
POLL_S = 0.1
#: Services have 30 s, then RabbitMQ and mongod 10; the rest is for a busy machine.
STOP_S = 60.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OnReady = Callable[[StackInfo], Awaitable[None]]


async def run(home: Home, layout: Layout, report: Report, on_ready: OnReady | None = None) -> None:
    """Start a stack and keep it up until SIGINT, SIGTERM or SIGHUP; a second signal kills instead of stopping.

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
                report("killing everything")
                stack.kill()
            told.set()

        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, on_signal)
        serving = asyncio.create_task(_serve(stack, on_ready))
        stopping = asyncio.create_task(told.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if told.is_set():
                report("stopping; once more kills at once")
        finally:
            for task in (serving, stopping):
                task.cancel()
            await asyncio.wait({serving, stopping})
            await stack.stop()
        if not serving.cancelled():
            serving.result()
        report("stopped")


async def _serve(stack: Stack, on_ready: OnReady | None) -> None:
    info = await stack.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(stack.supervise())
        if on_ready:
            await on_ready(info)


def start_detached(home: Home, workers: int, *, simulator: bool, report: Report) -> StackState:
    """Start a supervisor that outlives this process, and wait until its stack is ready.

    Args:
        home: the data directory.
        workers: how many generation workers run.
        simulator: whether the provider's stand-in runs.
        report: takes the lines that the supervisor reports.

    Returns:
        The running stack.

    Raises:
        StackError: it could not be started; nothing is left behind.
    """
    command = [sys.executable, "-m", "infra.local.supervisor", "--home", str(home.path)]
    command += ["--workers", str(workers), *([] if simulator else ["--no-simulator"])]
    with _log(home) as (log, lines):
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        last = ""
        try:
            while True:
                ended = supervisor.poll() is not None
                for line in lines:
                    last = line.strip()
                    if not last.startswith("error: "):
                        report(last)
                state = running_state(home)
                if state and state.ready and supervisor_pid(state) == supervisor.pid:
                    return state
                if ended:
                    raise StackError(last.removeprefix("error: ") or "the supervisor ended without a word")
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            supervisor.terminate()
            supervisor.wait(STOP_S)
            raise


def stop(home: Home) -> int:
    """Stop the supervisor of this directory and whatever is left of an earlier one.

    Returns:
        How many processes there were.
    """
    state = running_state(home)
    processes = leftovers.marked(home.path)
    if state:
        pid = supervisor_pid(state)
        processes.append(pid)
    return len(processes)


def _report_with_time(line: str) -> None:
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
        asyncio.run(run(Home(options.home), layout, _report_with_time))
    except PlatformError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""A supervisor that outlives the command that started it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from infra.errors import StackError
from infra.local.bytecode import with_bytecode
from infra.local.home import Home
from infra.local.state import StackState, running_state, supervisor_pid

POLL_S = 0.1
#: Seconds that an interrupted supervisor has to stop what it has started.
STOP_S = 60.0
ERROR = "error: "


def supervisor_command(home: Home, workers: int, *, simulator: bool) -> list[str]:
    """The command line of a supervisor of the whole stack."""
    command = [sys.executable, "-m", "infra.local.supervisor", "--home", str(home.path)]
    return [*command, "--workers", str(workers), *([] if simulator else ["--no-simulator"])]


def start_detached(home: Home, command: Sequence[str], report: Callable[[str], None]) -> StackState:
    """Start a supervisor in a session of its own, and wait until its stack is ready.

    Args:
        home: the data directory; the supervisor's lines go to `logs/up.log` in it.
        command: the supervisor's.
        report: takes those lines as they come.

    Returns:
        The running stack.

    Raises:
        StackError: it could not be started; nothing is left behind.
    """
    home.make()
    path = home.logs / "up.log"
    with path.open("a") as log, path.open() as lines:
        lines.seek(0, 2)
        supervisor = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=with_bytecode(os.environ, home),
            start_new_session=True,
        )
        last = "the supervisor ended without a word"
        ended = False
        try:
            while not ended:
                ended = supervisor.poll() is not None
                for line in lines:
                    last = line.strip()
                    if not last.startswith(ERROR):
                        report(last)
                state = running_state(home)
                if state and state.ready and supervisor_pid(state) == supervisor.pid:
                    return state
                time.sleep(POLL_S)
        except BaseException:
            supervisor.terminate()
            supervisor.wait(STOP_S)
            raise
    raise StackError(last.removeprefix(ERROR))

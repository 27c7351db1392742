"""A child process: in a session of its own, its output in a log file, ended with all that it started."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.local.leftovers import MARK, end, marked

_SETPRIV = shutil.which("setpriv")
#: Has the kernel end the child when this process is killed. It counts from the thread that starts the child.
_END_WITH_PARENT = (_SETPRIV, "--pdeathsig", "TERM", "--") if _SETPRIV else ()


class Child:
    """One command that can be started, and started again.

    Args:
        name: what people call it.
        command: its program and arguments; they are visible to everybody on the machine, so no secrets.
        environment: its whole environment.
        log: file to which its output is appended; unique to this child, since it is its mark as well.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = {**environment, MARK: str(log)}
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Id of the running process; None while there is none."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def start(self) -> None:
        """Start it, once what a former run may have left behind is gone; nothing happens while it runs.

        Raises:
            OSError: the program can't be started, or the log not be written.
        """
        if self.pid is not None:
            return
        await end(marked(self.log), grace_s=0)
        log = self._open_log()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_END_WITH_PARENT,
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def wait(self) -> int:
        """Wait for its end.

        Returns:
            Its exit status; below zero, the signal that ended it.
        """
        return await self._process.wait() if self._process else 0

    async def stop(self, grace_s: float) -> None:
        """End it and all that it started: SIGTERM, and after `grace_s` seconds SIGKILL."""
        if self._process:
            self._signal(signal.SIGTERM)
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await self._process.wait()
            finally:
                self.kill()
            await self._process.wait()
        await end(marked(self.log), grace_s=0)

    def kill(self) -> None:
        """SIGKILL, without waiting for anything."""
        self._signal(signal.SIGKILL)

    def output(self) -> str:
        """What it has written since it was last started."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._log_start)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def last_line(self) -> str:
        """The last line that it wrote, for an error message."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else "it wrote nothing"

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _open_log(self) -> int:
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._log_start = os.fstat(log).st_size
        return log

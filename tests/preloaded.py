"""Starts Python processes without their imports, which are most of what a short process costs.

`python -m tests.preloaded` imports what services need, and forks a process for each request that comes on its
standard input, a socket; from there on the process does what `python -m MODULE` does. It ends when nobody
holds the socket's other end.
"""

import asyncio
import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import gettempdir
from typing import NoReturn

from pymongo.synchronous import monitor

ROOT = Path(__file__).parents[1]
#: What services import, without `workers.cli`: its consoles read the environment when they are made.
MODULES = (
    *("typer.core", "typer.main", "rich.table", "faststream.rabbit", "openai", "uvloop", "aiohttp.web"),
    *("workers.generation.app", "workers.accounting.app", "workers.leasing.app", "workers.console.app"),
    *(
        "infra.consumed_metrics",
        "anyio._backends._asyncio",
        "psutil",
        "rich.progress",
        "infra.local.simulator.app",
        "infra.local.simulator.script",
    ),
)
#: Compiled modules of the processes that tests start: compiling them anew would take most of a start.
BYTECODE = Path(gettempdir()) / f"keyway-tests-bytecode-{os.getuid()}"
UNHELPFUL = ("PYTHONDONTWRITEBYTECODE",)
#: The longest message between the two, in bytes: arguments and environment.
MOST_BYTES = 1 << 20
#: Standard input, output and error of the new process, and where its end is told.
DESCRIPTORS = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """A process to start."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str


class PreloadedProcess:
    """A process that was forked; used as one of `asyncio.subprocess`."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end = end
        self._ended = asyncio.Event()
        end.setblocking(False)
        asyncio.get_running_loop().add_reader(end, self._on_end)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _on_end(self) -> None:
        said = self._end.recv(64)
        asyncio.get_running_loop().remove_reader(self._end)
        self._end.close()
        # Nothing is said where the parent itself was killed.
        self.returncode = int(said) if said else -signal.SIGKILL
        self._ended.set()


class Preloaded:
    """The process that forks, as long as this one lives."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
        self._nothing = os.open(os.devnull, os.O_RDONLY)
        environment = {name: value for name, value in os.environ.items() if name not in UNHELPFUL}
        environment["PYTHONPYCACHEPREFIX"] = str(BYTECODE)
        command = [sys.executable, "-m", __name__]
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), cwd=ROOT, env=environment)

    async def start(
        self,
        arguments: list[str],
        environment: dict[str, str],
        folder: Path,
        streams: tuple[int | None, int, int],
    ) -> PreloadedProcess:
        """Start `python -m ARGUMENTS`.

        Args:
            arguments: the module and what follows it.
            environment: all of it.
            folder: where it starts.
            streams: descriptors of its standard input (None: it is empty), output and error.
        """
        given, output, error = streams
        given = self._nothing if given is None else given
        end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked = json.dumps({"arguments": arguments, "environment": environment, "folder": str(folder)})
        with theirs:
            socket.send_fds(self._socket, [asked.encode()], [given, output, error, theirs.fileno()])
        end.setblocking(False)
        pid = int(await asyncio.get_running_loop().sock_recv(end, 64))
        return PreloadedProcess(pid, end)


_preloaded: list[Preloaded] = []


def preloaded() -> Preloaded:
    """The one of this process, started when it is asked for first."""
    if not _preloaded:
        _preloaded.append(Preloaded())
    return _preloaded[0]


def _fork_for_ever(requests: socket.socket) -> Asked:
    """Fork for each request, and tell of each end.

    Returns:
        In the new process, what it is to run.
    """
    ends: dict[int, socket.socket] = {}
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_ends(ends)
        if requests not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, DESCRIPTORS)
        if not message:
            sys.exit(0)
        end = socket.socket(fileno=descriptors[-1])
        pid = os.fork()
        if pid == 0:
            _become(descriptors[:-1])
            return Asked(**json.loads(message))
        for descriptor in descriptors[:-1]:
            os.close(descriptor)
        end.send(str(pid).encode())
        ends[pid] = end


def _tell_ends(ends: dict[int, socket.socket]) -> None:
    for pid in list(ends):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with ends.pop(pid) as end:
                try:
                    end.send(str(os.waitstatus_to_exitcode(status)).encode())
                except OSError:  # nobody asks any more
                    continue


def _become(streams: list[int]) -> None:
    """Take the streams, and leave the rest of the parent's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
    os.closerange(len(streams), 1024)


def load() -> None:
    """Import what services need."""
    for module in MODULES:
        import_module(module)
    from infra.prices import cost

    cost("gpt-4o-mini", 0, 0, 0)  # the price list is half a second of each worker's start


def _run(asked: Asked) -> None:
    os.environ.clear()
    os.environ.update(asked.environment)
    time.tzset()
    os.chdir(asked.folder)
    module, *arguments = asked.arguments
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        _end(end.code)
    _end(0)


def _end(code: int | str | None) -> NoReturn:
    """End as the interpreter does, without taking apart what was imported: that copies all of it."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def main() -> None:
    with socket.socket(fileno=os.dup(0)) as requests:
        load()
        # Half a second at each end: PyMongo waits for threads that sleep, which `os._exit` ends.
        atexit.unregister(monitor._shutdown_resources)
        gc.collect()
        gc.freeze()
        asked = _fork_for_ever(requests)
        requests.detach()  # closed in the new process
    _run(asked)


if __name__ == "__main__":
    main()

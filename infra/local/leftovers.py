"""Processes of the local stack that outlived whoever started them.

Every child bears a mark in its environment, which its own children inherit: so they are found even when
nobody lived to write their ids down, and a process that only has got a former one's id is never mistaken.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import psutil  # type: ignore[import-untyped, unused-ignore]

#: The environment variable that holds the mark: a path below the data directory, one per child.
MARK = "KEYWAY_CHILD"
#: Seconds for a killed process to vanish.
KILL_S = 5.0

#: psutil bears no types.
Process: TypeAlias = Any


def marked(path: Path) -> list[Process]:
    """Living processes whose mark is this path or lies below it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK)
            if mark and Path(mark).is_relative_to(path):
                found.append(process)
    return found


async def end(processes: Iterable[Process], grace_s: float) -> None:
    """End processes that are not this one's children: SIGTERM, and SIGKILL to what is left after it.

    Args:
        processes: from `marked`.
        grace_s: seconds that they have to end by themselves; 0 kills at once.
    """
    alive = list(processes)
    if alive and grace_s:
        _each(alive, "terminate")
        _, alive = await asyncio.to_thread(psutil.wait_procs, alive, timeout=grace_s)
    if alive:
        _each(alive, "kill")
        await asyncio.to_thread(psutil.wait_procs, alive, timeout=KILL_S)


def started_at(pid: int) -> int | None:
    """When the process with this id was started, in clock ticks since the machine was; None when it is gone.

    With the id this names one process for good, whatever the clock on the wall does.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    zombie, start = fields[0] == "Z", int(fields[19])
    return None if zombie else start


def _each(processes: Iterable[Process], action: str) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            getattr(process, action)()

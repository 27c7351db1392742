"""What dies is started again, as an orchestrator would."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from infra.errors import StackError
from infra.local.readiness import describe_exit

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
#: A part that was up for so many seconds starts with the first delay again.
STEADY_S = 30.0

#: Takes one line for the person at the terminal.
Report: TypeAlias = Callable[[str], None]


class Part(Protocol):
    """A part of the stack that runs as a child process."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def kind(self) -> str:
        """Under which name its process ids are listed."""

    @property
    def pid(self) -> int | None:
        """Id of its process; None while there is none."""

    async def start(self) -> None:
        """Start it."""

    async def wait_ready(self) -> None:
        """Wait until it serves; StackError when it will not."""

    async def wait(self) -> int:
        """Wait for its end and return the exit status."""

    async def stop(self) -> None:
        """End it, and all that it started."""

    def kill(self) -> None:
        """SIGKILL."""


def next_delay(former: float | None, uptime_s: float) -> float:
    """Seconds to wait before the next start.

    Args:
        former: the delay before the last start; None when there was none.
        uptime_s: how long the part was up since.
    """
    if former is None or uptime_s >= STEADY_S:
        return FIRST_DELAY_S
    return min(former * 2, LONGEST_DELAY_S)


async def keep_running(
    part: Part,
    report: Report,
    changed: Callable[[], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Start the part again whenever it ends, until cancelled.

    Args:
        part: one that has been started.
        report: told of each end and each return.
        changed: called when the part's process id is another.
        clock: seconds.
        sleep: how a delay passes.
    """
    delay: float | None = None
    started = clock()
    while True:
        status = await part.wait()
        ended = clock()
        delay = next_delay(delay, ended - started)
        changed()
        report(f"{part.name} {describe_exit(status)}; starting it again in {delay:g} s")
        await sleep(delay)
        started = clock()
        try:
            await part.start()
            changed()
            await part.wait_ready()
        except (StackError, OSError) as error:
            report(str(error))
            await part.stop()
        else:
            report(f"{part.name} is back, {clock() - ended:.1f} s after its end")

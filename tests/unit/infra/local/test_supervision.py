import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StackError
from infra.local.supervision import FIRST_DELAY_S, LONGEST_DELAY_S, STEADY_S, keep_running, next_delay


def test_the_first_delay_is_short_and_the_next_ones_double() -> None:
    delays = [next_delay(None, 1)]
    while len(delays) < 7:
        delays.append(next_delay(delays[-1], 1))
    assert delays == [0.5, 1, 2, 4, 8, 10, 10]


def test_who_was_up_for_long_starts_anew_with_the_first_delay() -> None:
    assert next_delay(LONGEST_DELAY_S, STEADY_S) == FIRST_DELAY_S


@given(st.none() | st.floats(FIRST_DELAY_S, LONGEST_DELAY_S), st.floats(0, 1e9))
def test_a_delay_is_never_out_of_bounds(former: float | None, uptime_s: float) -> None:
    assert FIRST_DELAY_S <= next_delay(former, uptime_s) <= LONGEST_DELAY_S


@dataclass
class Mortal:
    """A part that lives for the given seconds, and once more for each further entry."""

    lives_s: list[float]
    fails: bool = False
    now: float = 0.0
    starts: int = 0
    stops: int = 0
    slept_s: list[float] = field(default_factory=list)
    lives_on: asyncio.Event = field(default_factory=asyncio.Event)
    name: str = "it"
    kind: str = "it"
    pid: int | None = 1

    async def start(self) -> None:
        self.starts += 1

    async def wait_ready(self) -> None:
        if self.fails:
            raise StackError("it has no luck")

    async def wait(self) -> int:
        if not self.lives_s:
            self.lives_on.set()
            await asyncio.Event().wait()
        self.now += self.lives_s.pop(0)
        return -9

    async def stop(self) -> None:
        self.stops += 1

    def kill(self) -> None: ...

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


async def supervised(part: Mortal) -> list[str]:
    """Supervise it until it lives for good."""
    lines: list[str] = []
    task = asyncio.create_task(
        keep_running(part, lines.append, lambda: None, clock=lambda: part.now, sleep=part.sleep)
    )
    await part.lives_on.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return lines


async def test_what_dies_is_started_again_and_the_terminal_says_so() -> None:
    part = Mortal([5])
    assert await supervised(part) == [
        "it was ended by signal 9; starting it again in 0.5 s",
        "it is back, 0.0 s after its end",
    ]
    assert part.starts == 1


async def test_what_dies_again_and_again_is_started_less_and_less_often() -> None:
    part = Mortal([5, 5, 5, 40, 5])
    await supervised(part)
    assert part.slept_s == [0.5, 1, 2, 0.5, 1]


async def test_a_start_that_fails_is_cleaned_up_and_tried_again() -> None:
    part = Mortal([5, 0], fails=True)
    lines = await supervised(part)
    assert lines.count("it has no luck") == part.stops == part.starts == 2

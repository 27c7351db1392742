"""How a load is paced: a closed loop keeps so many requests in flight, an open loop keeps to a rate."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.bench.latencies import Latencies

#: A timer may be so late, in seconds: uvloop's have whole milliseconds.
TIMER_S = 0.002
Ask = Callable[[], Awaitable[None]]


@dataclass
class Load:
    """What a generator saw; it travels as JSON."""

    requests: int
    seconds: float
    #: How much of one core the generator itself used: near 1, it measures itself.
    own_cores: float
    #: Of a closed loop as they were; of an open loop, from the moment at which a request was due.
    latencies: str
    #: Of a closed loop with what it left out.
    corrected: str = ""
    #: Of an open loop: how late the latest request was sent, in milliseconds.
    latest_ms: float = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


@dataclass
class _Clock:
    """Since when, in wall and own CPU time."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)

    def load(self, latencies_s: list[float], **more: object) -> Load:
        seconds = time.perf_counter() - self.wall
        own_cores = (time.process_time() - self.cpu) / seconds
        known = {"latencies": Latencies.of(latencies_s).encoded, **more}
        return Load(len(latencies_s), seconds, own_cores, **known)  # type: ignore[arg-type]


async def closed_loop(ask: Ask, *, requests: int, in_flight: int) -> Load:
    """Send so many requests, the next one of each of `in_flight` loops when its answer has come."""
    latencies_s: list[float] = []
    numbers = iter(range(requests))
    clock = _Clock()

    async def keep_asking() -> None:
        for _ in numbers:
            began = time.perf_counter()
            await ask()
            latencies_s.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(keep_asking())
    load = clock.load(latencies_s)
    usual_s = Latencies.decoded([load.latencies]).percentile_ms(50) / 1000
    load.corrected = Latencies.of(latencies_s, expected_interval_s=usual_s).encoded
    return load


async def open_loop(ask: Ask, *, requests: int, rate: float) -> Load:
    """Send so many requests at a rate, whether or not answers come.

    Latency counts from when a request was due, but for what a timer is late by itself.
    """
    latencies_s: list[float] = []
    latest_s = 0.0
    clock = _Clock()

    async def ask_due(due: float) -> None:
        now = time.perf_counter()
        began = due if now - due > TIMER_S else now
        await ask()
        latencies_s.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for number in range(requests):
            due = clock.wall + number / rate
            early_s = due - time.perf_counter()
            if early_s > 0:
                await asyncio.sleep(early_s)
            latest_s = max(latest_s, time.perf_counter() - due)
            group.create_task(ask_due(due))
    return clock.load(latencies_s, latest_ms=latest_s * 1000)

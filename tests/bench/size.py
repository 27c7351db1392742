"""What size costs: one automation with 3 keys beside a thousand with 3,000, each in a Keyway of its own.

    python -m tests.bench.size [--quick]

Both have one worker with everything on; they are measured in turns. The load on the large one goes to one of
its automations, and then to all in turns, which is the dearest: hardly two requests of a moment are of the
same. Then another worker is started there, and an automation is added.
"""

import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from tests.bench.latencies import Latencies
from tests.bench.part import Bench, Finding, Goal, Report, bench_automation, columns, provider, run_alone
from tests.bench.peers import Target, amqp_load, send, spread_load
from tests.bench.seeding import seed
from tests.bench.worker_cpu import IN_FLIGHT, Round, measure
from tests.harness import World

AUTOMATIONS = 1000
REQUESTS, ROUNDS, LONE_REQUESTS = 2000, 4, 200
QUICK_REQUESTS, QUICK_ROUNDS, QUICK_LONE_REQUESTS = 1000, 2, 100
STARTS, ADDITIONS = 3, 3
CPU = Goal("CPU per request, 1,000 automations to 1", 1.2)
LATENCY = Goal("latency one in flight, p50, 1,000 automations to 1", 1.2)
MEMORY = Goal("memory of a worker with 1,000 automations", 250, "MB")
START = Goal("start of a worker with 1,000 lanes", 5, "s")
NEW = Goal("a new automation is served after", 2, "s")


@dataclass
class Side:
    """A Keyway of one size."""

    name: str
    world: World
    target: Target
    rounds: list[Round] = field(default_factory=list)
    lone_p50_ms: list[float] = field(default_factory=list)

    async def turn(self, requests: int, lone_requests: int) -> None:
        """A busy round, then one with one request in flight."""
        self.rounds.append(await measure(self.world, self.target, requests, IN_FLIGHT))
        lone = await send(self.world, self.target.load, f"--requests={lone_requests}", "--in-flight=1")
        self.lone_p50_ms.append(Latencies.decoded([lone.latencies]).percentile_ms(50))


async def open_sides(stack: AsyncExitStack, bench: Bench, base_url: str, automations: int) -> list[Side]:
    """A Keyway with so many automations, accounting and a worker: one of them asked, and all."""
    world = await stack.enter_async_context(bench.world())
    names = await seed(bench, world, base_url, automations)
    accounting = await world.start_accounting()
    worker = await world.start_worker()
    sides = []
    for asked in sorted({1, automations}):
        load = spread_load(world.folder, names[:asked])
        target = Target("keyway", worker, load, beside={"accounting": accounting.process.pid})
        sides.append(Side(f"{automations:,} automations, {asked:,} asked", world, target))
    return sides


async def start_s(world: World) -> float:
    """How long another worker takes from its start until it consumes every lane; it is stopped again."""
    began = time.perf_counter()
    worker = await world.start_worker()
    took_s = time.perf_counter() - began
    await worker.stop()
    return took_s


async def served_s(world: World, base_url: str) -> float:
    """How long a new automation takes from being added, with its keys, to its first answer."""
    began = time.perf_counter()
    automation = await bench_automation(world, base_url)
    await send(world, amqp_load(automation, exchange="requests"), "--requests=1", "--in-flight=1")
    return time.perf_counter() - began


async def report(bench: Bench) -> Report:
    """Both sizes in turns."""
    rounds = QUICK_ROUNDS if bench.quick else ROUNDS
    requests = QUICK_REQUESTS if bench.quick else REQUESTS
    lone_requests = QUICK_LONE_REQUESTS if bench.quick else LONE_REQUESTS
    async with AsyncExitStack() as stack:
        base_url = await stack.enter_async_context(provider(bench.folder))
        sides = [
            side for count in (1, AUTOMATIONS) for side in await open_sides(stack, bench, base_url, count)
        ]
        large = sides[-1]
        for side in sides:
            bench.step(f"size: warming up {side.name}")
            await measure(side.world, side.target, requests, IN_FLIGHT)
        for number in range(rounds):
            for side in sides:
                bench.step(f"size: {side.name}, round {number + 1} of {rounds}")
                await side.turn(requests, lone_requests)
        bench.step("size: starting workers with 1,000 lanes")
        starts = [await start_s(large.world) for _ in range(1 if bench.quick else STARTS)]
        bench.step("size: adding automations")
        additions = [await served_s(large.world, base_url) for _ in range(ADDITIONS)]
    return summary(sides, starts, additions)


def summary(sides: list[Side], starts: list[float], additions: list[float]) -> Report:
    """The turns as a report; the goals are about the smallest and the largest."""
    small, large = sides[0], sides[-1]
    rows: list[tuple[str, ...]] = [("", "CPU ms/request", "requests/s", "one in flight, p50 ms", "memory MB")]
    figures = {}
    for side in sides:
        figure = {
            "cpu_ms": statistics.median(one.cpu_ms for one in side.rounds),
            "requests_a_second": statistics.median(one.load.rate for one in side.rounds),
            "lone_p50_ms": statistics.median(side.lone_p50_ms),
            "memory_mb": max(one.memory_mb for one in side.rounds),
        }
        figures[side.name] = figure
        cpu_ms, rate, lone_ms, memory = figure.values()
        rows.append((side.name, f"{cpu_ms:.2f}", f"{rate:.0f}", f"{lone_ms:.2f}", f"{memory:.0f}"))
    cpu = statistics.median(
        one.cpu_ms / other.cpu_ms for one, other in zip(large.rounds, small.rounds, strict=True)
    )
    latency = statistics.median(
        one / other for one, other in zip(large.lone_p50_ms, small.lone_p50_ms, strict=True)
    )
    findings = [
        Finding(CPU, cpu),
        Finding(LATENCY, latency),
        Finding(MEMORY, max(one.memory_mb for one in large.rounds)),
        Finding(START, statistics.median(starts)),
        Finding(NEW, statistics.median(additions)),
    ]
    return Report(
        f"What size costs: 1 automation and {AUTOMATIONS:,}, three keys each",
        columns(rows),
        findings,
        {"sides": figures, "starts_s": starts, "additions_s": additions},
    )


if __name__ == "__main__":
    run_alone(report, "tests.bench.size", __doc__ or "")

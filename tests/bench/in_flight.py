"""Five thousand calls in flight in one worker, at a provider that takes 10 s: memory and CPU.

    python -m tests.bench.in_flight [--quick]

A closed loop keeps 5,000 requests under way over 50 automations, so that 500 begin and end each second. The
calls are counted by the provider. On a machine that is busy with other things there may be fewer a second:
CPU is told as what 500 a second cost.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp

from tests.bench.part import Bench, Finding, Goal, Report, columns, provider, run_alone
from tests.bench.peers import send, spread_load
from tests.bench.processes import cpu_ms_a_request, cpu_s, memory_mb
from tests.bench.seeding import seed
from tests.harness import World

IN_FLIGHT, AUTOMATIONS, LATENCY_S = 5000, 50, 10.0
#: How often each of the 5,000 is asked anew.
WAVES, QUICK_WAVES = 5, 2
#: A lane is not widened beyond it: some room, so that the last ones are.
MAX_IN_FLIGHT = 6000
SAMPLE_S = 0.5
CALLS = Goal("calls in flight in one worker, provider taking 10 s", IN_FLIGHT, at_least=True)
MEMORY = Goal("its memory with as many", 400, "MB")
CPU = Goal("its CPU with as many", 0.5, "cores")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the worker."""

    in_flight: int
    answered: int
    cpu_s: float
    memory_mb: float


async def watch(pid: int, base_url: str, samples: list[Sample]) -> None:
    """Look at a worker and count the provider's calls, until cancelled."""
    url = base_url.removesuffix("/v1") + "/calls"
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as response:
                in_flight, answered = (int(number) for number in (await response.text()).split())
            samples.append(Sample(in_flight, answered, cpu_s([pid]), memory_mb([pid])))
            await asyncio.sleep(SAMPLE_S)


async def run(bench: Bench, world: World, base_url: str, waves: int) -> tuple[list[Sample], float]:
    """Samples of the whole load, and the answers a second."""
    automations = await seed(bench, world, base_url, AUTOMATIONS)
    await world.start_accounting()
    worker = await world.start_worker(KEYWAY_MAX_IN_FLIGHT=str(MAX_IN_FLIGHT))
    bench.step(f"5,000 in flight: {waves} times 10 s and more")
    samples: list[Sample] = []
    watching = asyncio.create_task(watch(worker.process.pid, base_url, samples))
    try:
        load = await send(
            world,
            spread_load(bench.folder, automations),
            f"--requests={IN_FLIGHT * waves}",
            f"--in-flight={IN_FLIGHT}",
        )
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return samples, load.rate


async def report(bench: Bench) -> Report:
    """One worker, one load."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        base_url = await stack.enter_async_context(provider(bench.folder, LATENCY_S))
        samples, rate = await run(bench, world, base_url, QUICK_WAVES if bench.quick else WAVES)
    most = max(sample.in_flight for sample in samples)
    memory = max(sample.memory_mb for sample in samples)
    first, last = samples[0], samples[-1]
    cpu_ms = cpu_ms_a_request(first.cpu_s, last.cpu_s, last.answered - first.answered)
    cores = cpu_ms / 1000 * IN_FLIGHT / LATENCY_S
    rows: list[tuple[str, ...]] = [
        ("", "most in flight", "memory MB", "at first", "CPU ms/request", "cores at 500/s", "answers/s"),
        (
            "worker",
            f"{most:,}",
            f"{memory:.0f}",
            f"{first.memory_mb:.0f}",
            f"{cpu_ms:.2f}",
            f"{cores:.2f}",
            f"{rate:.0f}",
        ),
    ]
    figures = {
        "most": most,
        "memory_mb": memory,
        "memory_first_mb": first.memory_mb,
        "cpu_ms": cpu_ms,
        "cores": cores,
        "answers_a_second": rate,
    }
    findings = [Finding(CALLS, most), Finding(MEMORY, memory), Finding(CPU, cores)]
    return Report("5,000 calls in flight in one worker, each of 10 s", columns(rows), findings, figures)


if __name__ == "__main__":
    run_alone(report, "tests.bench.in_flight", __doc__ or "")

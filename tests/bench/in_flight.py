"""Five thousand calls in flight in one worker, at a provider that takes 10 s: memory and CPU.

    python -m tests.bench.in_flight [--quick]

A closed loop keeps 5,000 requests under way over 50 automations, so that 500 begin and end each second. The
calls are counted by the provider. On a machine that is busy with other things there may be fewer a second:
CPU is told as what 500 a second cost.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp

from tests.bench.part import Bench, Finding, Goal, Report, columns, provider, run_alone
from tests.bench.peers import spread_load, start_load
from tests.bench.processes import cpu_ms_a_request, cpu_s, memory_mb
from tests.bench.seeding import seed
from tests.harness import World

IN_FLIGHT, AUTOMATIONS, LATENCY_S = 5000, 50, 10.0
SECONDS, QUICK_SECONDS = 60.0, 30.0
#: More than are sent in that time.
ENDLESS = 1_000_000
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


async def watch(pid: int, base_url: str, seconds: float) -> list[Sample]:
    """Look at a worker and count the provider's calls, for so long."""
    url = base_url.removesuffix("/v1") + "/calls"
    samples: list[Sample] = []
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until:
            async with session.get(url) as response:
                in_flight, answered = (int(number) for number in (await response.text()).split())
            samples.append(Sample(in_flight, answered, cpu_s([pid]), memory_mb([pid])))
            await asyncio.sleep(SAMPLE_S)
    return samples


async def run(bench: Bench, world: World, base_url: str, seconds: float) -> list[Sample]:
    """Samples of the time in which the load goes on; it is ended amid its requests.

    Raises:
        RuntimeError: it ended by itself, since a request failed.
    """
    automations = await seed(bench, world, base_url, AUTOMATIONS)
    await world.start_accounting()
    worker = await world.start_worker(KEYWAY_MAX_IN_FLIGHT=str(MAX_IN_FLIGHT))
    bench.step(f"5,000 in flight: {seconds:g} s")
    load = await start_load(
        world,
        spread_load(bench.folder, automations),
        f"--requests={ENDLESS}",
        f"--in-flight={IN_FLIGHT}",
    )
    samples = await watch(worker.process.pid, base_url, seconds)
    if load.returncode is None:
        load.kill()
        await load.wait()
    else:
        _, complaint = await load.communicate()
        raise RuntimeError(f"the load failed: {complaint.decode()[-2000:]}")
    return samples


async def report(bench: Bench) -> Report:
    """One worker, one load."""
    seconds = QUICK_SECONDS if bench.quick else SECONDS
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        base_url = await stack.enter_async_context(provider(bench.folder, LATENCY_S))
        samples = await run(bench, world, base_url, seconds)
    most = max(sample.in_flight for sample in samples)
    memory = max(sample.memory_mb for sample in samples)
    # From the first answers on, as many calls end as begin.
    steady = [sample for sample in samples if sample.answered]
    first, last = steady[0], steady[-1]
    cpu_ms = cpu_ms_a_request(first.cpu_s, last.cpu_s, last.answered - first.answered)
    rate = (last.answered - first.answered) / (len(steady) * SAMPLE_S)
    cores = cpu_ms / 1000 * IN_FLIGHT / LATENCY_S
    rows: list[tuple[str, ...]] = [
        ("", "most in flight", "memory MB", "at first", "CPU ms/request", "cores at 500/s", "answers/s"),
        (
            "worker",
            f"{most:,}",
            f"{memory:.0f}",
            f"{samples[0].memory_mb:.0f}",
            f"{cpu_ms:.2f}",
            f"{cores:.2f}",
            f"{rate:.0f}",
        ),
    ]
    figures = {
        "most": most,
        "memory_mb": memory,
        "memory_first_mb": samples[0].memory_mb,
        "cpu_ms": cpu_ms,
        "cores": cores,
        "answers_a_second": rate,
    }
    findings = [Finding(CALLS, most), Finding(MEMORY, memory), Finding(CPU, cores)]
    return Report("5,000 calls in flight in one worker, each of 10 s", columns(rows), findings, figures)


if __name__ == "__main__":
    run_alone(report, "tests.bench.in_flight", __doc__ or "")

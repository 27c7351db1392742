"""How much later answers come to an automation beside one that does all that its service token allows.

    python -m tests.bench.noisy_neighbour [--quick]

An ordinary automation makes 20 requests a second, in an open loop and from a process of its own, to a
provider that takes 0.3 s: first alone, then beside the acts of tests/chaos/noisy_neighbour, kind by kind,
then alone again. Two workers, accounting and leasing serve both. The acts need the same machine as
everything else, so that some of what is measured is their own work. The quick form does one act of each kind.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.bench.latencies import Latencies
from tests.bench.part import Bench, Finding, Goal, Report, bench_automation, columns, provider, run_alone
from tests.bench.peers import send, spread_load
from tests.chaos.noisy_neighbour.act import Act
from tests.chaos.noisy_neighbour.catalogue import KINDS
from tests.chaos.noisy_neighbour.lying_provider import LyingProvider, lying_provider
from tests.chaos.noisy_neighbour.neighbour import new_neighbour
from tests.chaos.noisy_neighbour.ordinary import PER_SECOND, Ordinary
from tests.harness import World

WORKERS = 2
LATENCY_S = 0.3
#: Requests of one run of the load; while acts go on, one run follows the other.
RUN = 100
#: Runs alone, before the acts and after them.
ALONE, QUICK_ALONE = 6, 2
P99 = Goal("p99 beside a noisy neighbour, to that alone, 20 requests a second", 1.5)


@dataclass(frozen=True, slots=True)
class Street:
    """The world of both, the ordinary automation's load, and the provider that lies to the other."""

    world: World
    ordinary: Ordinary
    load: tuple[str, ...]
    liar: LyingProvider
    is_quick: bool

    async def measure(self) -> Latencies:
        """One run of the load."""
        pace = (f"--requests={RUN}", f"--rate={PER_SECOND}")
        return Latencies.decoded([(await send(self.world, self.load, *pace)).latencies])

    async def alone(self, runs: int) -> list[Latencies]:
        """So many runs with nothing beside them."""
        return [await self.measure() for _ in range(runs)]

    async def beside(self, acts: Sequence[Act]) -> list[Latencies]:
        """Runs for as long as the acts are done, one after the other."""
        found: list[Latencies] = []
        async with asyncio.TaskGroup() as group:
            doing = group.create_task(self._do(acts))
            while not doing.done():
                found.append(await self.measure())
        return found

    async def _do(self, acts: Sequence[Act]) -> None:
        for act in acts:
            async with new_neighbour(
                self.world, self.ordinary, self.liar, act, is_quick=self.is_quick
            ) as neighbour:
                await act.do(neighbour)
                await neighbour.have_leftovers_done()


def total(runs: Sequence[Latencies]) -> Latencies:
    """All runs in one histogram."""
    return Latencies.decoded(run.encoded for run in runs)


async def report(bench: Bench) -> Report:
    """Alone, beside each kind of act, and alone again."""
    alone_runs = QUICK_ALONE if bench.quick else ALONE
    found: dict[str, list[Latencies]] = {}
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        base_url = await stack.enter_async_context(provider(bench.folder, LATENCY_S))
        liar = await stack.enter_async_context(lying_provider())
        bot = await bench_automation(world, base_url)
        await world.start_accounting()
        await world.start_leasing()
        for _ in range(WORKERS):
            await world.start_worker()
        street = Street(world, Ordinary(world, bot), spread_load(bench.folder, [bot]), liar, bench.quick)
        bench.step("noisy neighbour: warming up")
        await street.measure()
        bench.step("noisy neighbour: alone")
        found["alone"] = await street.alone(alone_runs)
        for kind in KINDS:
            bench.step(f"noisy neighbour: {kind.name}")
            found[kind.name] = await street.beside(kind.acts[:1] if bench.quick else kind.acts)
        bench.step("noisy neighbour: alone again")
        found["alone"] += await street.alone(alone_runs)
    return summary(found)


def summary(found: dict[str, list[Latencies]]) -> Report:
    """The runs as a report."""
    beside = [run for kind, runs in found.items() if kind != "alone" for run in runs]
    totals = {"alone": total(found["alone"]), "beside all acts": total(beside)}
    totals |= {kind: total(runs) for kind, runs in found.items() if kind != "alone"}
    rows: list[tuple[str, ...]] = [("", "requests", "p50 ms", "p99 ms")]
    rows += [
        (name, f"{one.count:,}", f"{one.percentile_ms(50):.0f}", f"{one.percentile_ms(99):.0f}")
        for name, one in totals.items()
    ]
    ratio = totals["beside all acts"].percentile_ms(99) / totals["alone"].percentile_ms(99)
    figures = {
        name: {"p50_ms": one.percentile_ms(50), "p99_ms": one.percentile_ms(99)}
        for name, one in totals.items()
    }
    title = f"An ordinary automation beside a noisy neighbour, provider taking {LATENCY_S:g} s"
    return Report(title, columns(rows), [Finding(P99, ratio)], figures)


if __name__ == "__main__":
    run_alone(report, "tests.bench.noisy_neighbour", __doc__ or "")

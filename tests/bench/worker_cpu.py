"""What one request costs in CPU time: Keyway's worker with everything on, beside its peers in the same run.

    python -m tests.bench.worker_cpu [--peers naive,floor] [--requests 2000] [--rounds 5] [--in-flight 64]

Everything on: limits, the journal with encryption, usage events, confirms. All are on the same RabbitMQ and
call the same provider, which answers at once; the load comes from a process of its own (`peers` says how each
is started). They are measured in turns, and each is held against the peer of the same turn, so that a machine
that is busy with other things is so for both. CPU is the process's own and its children's, user and system.

It uses the RabbitMQ and MongoDB that KEYWAY_AMQP_URL, KEYWAY_AMQP_ADMIN_URL and KEYWAY_MONGO_URL name, in a
vhost and a database that it makes and removes, or else starts both.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import orjson

from tests.bench.latencies import Latencies
from tests.bench.pacing import Load
from tests.bench.part import Bench, Finding, Goal, Report, columns, open_bench, provider
from tests.bench.peers import PEERS, Target, send
from tests.bench.processes import cpu_ms_a_request, cpu_s, memory_mb
from tests.harness import World, eventually

REQUESTS, ROUNDS, IN_FLIGHT = 2000, 5, 64
QUICK_REQUESTS, QUICK_ROUNDS = 600, 2
#: What a worker does before it is measured, as a share of a round.
WARM_UP = 0.5
#: How long accounting may take for what a round left to it, in seconds.
ACCOUNTED_S = 120.0
#: Keyway's cost as a share of each peer's.
GOALS = {
    "naive": Goal("worker CPU per request, to the naive worker's", 0.60),
    "celery": Goal("worker CPU per request, to Celery's", 0.60),
    "litellm": Goal("worker CPU per request, to LiteLLM proxy's", 0.15),
    "floor": Goal("worker CPU per request, to the floor's", 1.25),
}


@dataclass(frozen=True, slots=True)
class Round:
    """One turn of one target."""

    cpu_ms: float
    load: Load
    memory_mb: float
    beside_ms: dict[str, float] = field(default_factory=dict)


async def measure(world: World, target: Target, requests: int, in_flight: int) -> Round:
    """One turn of a target that is warm; what works for it is waited for."""
    rows = await world.mongo.usage.estimated_document_count()
    requests = max(in_flight, round(requests * target.share))
    before_s, beside_s = cpu_s([target.pid]), {name: cpu_s([pid]) for name, pid in target.beside.items()}
    load = await send(world, target.load, f"--requests={requests}", f"--in-flight={in_flight}")
    cpu_ms = cpu_ms_a_request(before_s, cpu_s([target.pid]), requests)
    if target.beside:
        await accounted(world, rows + requests)
    beside_ms = {
        name: cpu_ms_a_request(beside_s[name], cpu_s([pid]), requests) for name, pid in target.beside.items()
    }
    return Round(cpu_ms, load, memory_mb([target.pid]), beside_ms)


async def accounted(world: World, attempts: int) -> None:
    """Wait until the ledger has so many rows."""

    async def there() -> bool:
        return await world.mongo.usage.estimated_document_count() >= attempts

    await eventually(there, f"{attempts} ledger rows", within_s=ACCOUNTED_S, every_s=0.2)


async def run(
    bench: Bench, peers: Sequence[str], *, requests: int, rounds: int, in_flight: int
) -> dict[str, list[Round]]:
    """The turns of each peer, in order."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        base_url = await stack.enter_async_context(provider(bench.folder))
        targets = []
        for name in peers:
            bench.step(f"CPU per request: starting {name}")
            targets.append(await stack.enter_async_context(PEERS[name](bench, world, base_url)))
        for target in targets:
            bench.step(f"CPU per request: warming up {target.name}")
            await measure(world, target, round(requests * WARM_UP), in_flight)
        turns: dict[str, list[Round]] = {name: [] for name in peers}
        for number in range(rounds):
            for target in targets:
                bench.step(f"CPU per request: {target.name}, round {number + 1} of {rounds}")
                turns[target.name].append(await measure(world, target, requests, in_flight))
    return turns


def ratio(ours: Sequence[Round], theirs: Sequence[Round]) -> float:
    """The median over the turns of our cost to theirs in the same turn."""
    return statistics.median(one.cpu_ms / other.cpu_ms for one, other in zip(ours, theirs, strict=True))


def summary(turns: dict[str, list[Round]], in_flight: int) -> Report:
    """The turns as a report."""
    ours = turns["keyway"]
    rows: list[tuple[str, ...]] = [
        ("", "requests/s", "p50 ms", "p99 ms", "CPU ms/request", "least", "keyway to it", "memory MB")
    ]
    figures = {}
    for name, rounds in turns.items():
        latencies = Latencies.decoded(one.load.latencies for one in rounds)
        costs = [one.cpu_ms for one in rounds]
        figure = {
            "cpu_ms": statistics.median(costs),
            "cpu_ms_least": min(costs),
            "keyway_to_it": ratio(ours, rounds),
            "requests_a_second": statistics.median(one.load.rate for one in rounds),
            "p50_ms": latencies.percentile_ms(50),
            "p99_ms": Latencies.decoded(one.load.corrected for one in rounds).percentile_ms(99),
            "memory_mb": max(one.memory_mb for one in rounds),
            "load_cores": max(one.load.own_cores for one in rounds),
        }
        figures[name] = figure
        rows.append(
            (
                name,
                f"{figure['requests_a_second']:.0f}",
                f"{figure['p50_ms']:.1f}",
                f"{figure['p99_ms']:.1f}",
                f"{figure['cpu_ms']:.2f}",
                f"{figure['cpu_ms_least']:.2f}",
                f"{figure['keyway_to_it']:.2f}",
                f"{figure['memory_mb']:.0f}",
            )
        )
    beside = {name: statistics.median(one.beside_ms[name] for one in ours) for name in ours[0].beside_ms}
    busiest = max(figure["load_cores"] for figure in figures.values())
    costs_beside = ", ".join(f"{name} {ms:.2f}" for name, ms in beside.items())
    lines = [
        columns(rows),
        "",
        f"beside Keyway's worker, CPU ms/request: {costs_beside}",
        f"the load generator used {busiest:.2f} of a core at most",
    ]
    findings = [Finding(goal, ratio(ours, turns[peer])) for peer, goal in GOALS.items() if peer in turns]
    title = f"CPU per request, {in_flight} in flight, instant provider; median of {len(ours)} rounds in turns"
    return Report(title, "\n".join(lines), findings, {"peers": figures, "beside": beside})


async def report(bench: Bench) -> Report:
    """All peers."""
    requests, rounds = (QUICK_REQUESTS, QUICK_ROUNDS) if bench.quick else (REQUESTS, ROUNDS)
    turns = await run(bench, list(PEERS), requests=requests, rounds=rounds, in_flight=IN_FLIGHT)
    return summary(turns, IN_FLIGHT)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.worker_cpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="beside keyway, by comma; by default all")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each worker in each round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT)
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    peers = [name for name in dict.fromkeys(options.peers.split(",")) if name != "keyway"]
    if unknown := [name for name in peers if name not in PEERS]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")

    async def measured() -> Report:
        async with open_bench(quick=False) as bench:
            turns = await run(
                bench,
                [*peers, "keyway"],
                requests=options.requests,
                rounds=options.rounds,
                in_flight=options.in_flight,
            )
        return summary(turns, options.in_flight)

    found = asyncio.run(measured())
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found.document(), option=orjson.OPT_INDENT_2) + b"\n")
    else:
        sys.stdout.write(found.text())


if __name__ == "__main__":
    main()

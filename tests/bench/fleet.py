"""What more workers bring: 1, 2 and 4 processes, each kept as busy, and what a request costs them.

    python -m tests.bench.fleet [--quick]

On a machine with two cores four workers can't answer four times as much. What can be told is whether a
request costs more when there are more of them, in workers and accounting, and whether they get into each
other's way in MongoDB: its own count of write conflicts, over all that it serves.
"""

import statistics
from contextlib import AsyncExitStack
from dataclasses import dataclass

from infra.mongo import run_command
from tests.bench.part import Bench, Finding, Goal, Report, columns, provider, run_alone
from tests.bench.peers import send, spread_load
from tests.bench.processes import cpu_ms_a_request, cpu_s, listening_on
from tests.bench.seeding import seed
from tests.bench.worker_cpu import IN_FLIGHT, accounted
from tests.harness import World

AUTOMATIONS = 16
SIZES = (1, 2, 4)
REQUESTS, ROUNDS = 2000, 3
QUICK_REQUESTS, QUICK_ROUNDS = 1000, 2
CONSTANT = Goal(
    "answers per CPU second of the workers, the least of 2 and 4 workers to 1", 0.9, at_least=True
)
CONFLICTS = Goal("write conflicts in MongoDB per 1,000 requests, 4 workers", 10)


@dataclass(frozen=True, slots=True)
class Turn:
    """One load on so many workers; CPU in ms a request."""

    workers_ms: float
    accounting_ms: float
    mongod_ms: float
    rabbitmq_ms: float
    rate: float
    conflicts: float


async def write_conflicts(world: World) -> int:
    """How often MongoDB has had to try a write again because of another."""
    status = await run_command(world.environment["KEYWAY_MONGO_URL"], {"serverStatus": 1})
    conflicts: int = status["metrics"]["operation"]["writeConflicts"]
    return conflicts


async def turn(world: World, command: tuple[str, ...], requests: int) -> Turn:
    """One load on the workers that there are."""
    services = world.services
    parts: dict[str, list[int | None]] = {
        "workers": [service.process.pid for service in services[1:]],
        "accounting": [services[0].process.pid],
        "mongod": [listening_on(world.environment["KEYWAY_MONGO_URL"])],
        "rabbitmq": [listening_on(world.environment["KEYWAY_AMQP_URL"])],
    }
    pids = {name: [pid for pid in found if pid] for name, found in parts.items()}
    rows = await world.mongo.usage.estimated_document_count()
    before = {name: cpu_s(found) for name, found in pids.items()}
    conflicts = await write_conflicts(world)
    in_flight = IN_FLIGHT * len(pids["workers"])
    load = await send(world, command, f"--requests={requests}", f"--in-flight={in_flight}")
    workers_s = cpu_s(pids["workers"])
    await accounted(world, rows + requests)
    after = {name: cpu_s(found) for name, found in pids.items()} | {"workers": workers_s}
    costs = {name: cpu_ms_a_request(before[name], after[name], requests) for name in pids}
    conflicts = await write_conflicts(world) - conflicts
    return Turn(
        costs["workers"],
        costs["accounting"],
        costs["mongod"],
        costs["rabbitmq"],
        load.rate,
        conflicts * 1000 / requests,
    )


async def report(bench: Bench) -> Report:
    """The fleet grows while it is measured."""
    requests, rounds = (QUICK_REQUESTS, QUICK_ROUNDS) if bench.quick else (REQUESTS, ROUNDS)
    turns: dict[int, list[Turn]] = {}
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        base_url = await stack.enter_async_context(provider(bench.folder))
        command = spread_load(world.folder, await seed(bench, world, base_url, AUTOMATIONS))
        await world.start_accounting()
        for size in SIZES:
            while len(world.services) - 1 < size:
                await world.start_worker()
            bench.step(f"fleet: warming up {size} workers")
            await turn(world, command, requests)
            turns[size] = []
            for number in range(rounds):
                bench.step(f"fleet: {size} workers, round {number + 1} of {rounds}")
                turns[size].append(await turn(world, command, requests))
    return summary(turns)


def summary(turns: dict[int, list[Turn]]) -> Report:
    """The turns as a report."""
    rows: list[tuple[str, ...]] = [
        ("workers", "CPU ms/request", "accounting", "mongod", "rabbitmq", "requests/s", "conflicts/1,000")
    ]
    figures = {}
    for size, found in turns.items():
        figure = {
            name: statistics.median(getattr(one, name) for one in found) for name in Turn.__dataclass_fields__
        }
        figures[str(size)] = figure
        shown = [
            f"{figure[name]:.2f}" for name in ("workers_ms", "accounting_ms", "mongod_ms", "rabbitmq_ms")
        ]
        rows.append((str(size), *shown, f"{figure['rate']:.0f}", f"{figure['conflicts']:.1f}"))
    alone_ms = figures["1"]["workers_ms"]
    least = min(alone_ms / figure["workers_ms"] for size, figure in figures.items() if size != "1")
    findings = [Finding(CONSTANT, least), Finding(CONFLICTS, figures["4"]["conflicts"])]
    return Report("More workers, 64 in flight for each", columns(rows), findings, figures)


if __name__ == "__main__":
    run_alone(report, "tests.bench.fleet", __doc__ or "")

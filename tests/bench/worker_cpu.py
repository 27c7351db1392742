"""What one request costs a worker in CPU time: Keyway with everything on, beside two peers in the same run.

    python -m tests.bench.worker_cpu [--requests 2000] [--in-flight 64]

naive: FastStream and the OpenAI SDK as they come (`naive_worker`). floor: the least that is safe
(`floor_worker`). All three run on uvloop, on the same RabbitMQ, against the same simulated provider; the
load comes from a process of its own. They are measured in turns, and of each worker's rounds the cheapest
counts, since what disturbs a machine only adds. Ratios travel between machines better than figures do.

It uses the RabbitMQ and MongoDB that KEYWAY_AMQP_URL, KEYWAY_AMQP_ADMIN_URL and KEYWAY_MONGO_URL name, in a
vhost and a database that it makes and removes, or else starts both.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import psutil  # type: ignore[import-untyped, unused-ignore]

from infra.local.stack import backing_services
from tests.harness import Service, World, eventually, new_world
from workers.keys.key import Limits

ROUNDS = 3
#: What a worker does before it is measured, as a share of a round.
WARM_UP = 0.5
#: High enough never to be met, in every dimension that is checked.
LIMITS = Limits(10**8, 10**11, 10**12)
KEYS = ("Primary", "Secondary", "Backup")
#: How long accounting may take for what a round left to it, in seconds.
ACCOUNTED_S = 120.0
MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """A worker that is ready, how it is asked, and the processes that work for it, by their names."""

    name: str
    service: Service
    exchange: str
    routing_key: str
    beside: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """One round of a worker; CPU is user and system."""

    name: str
    requests_a_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_a_request: float
    beside_ms_a_request: Mapping[str, float]
    rss: int


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, in seconds."""
    times = psutil.Process(pid).cpu_times()
    seconds: float = times.user + times.system
    return seconds


def listening_on(url: str) -> int | None:
    """The process on this machine that listens at an address; None when it is elsewhere."""
    port = urlsplit(url).port
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            pid: int | None = connection.pid
            return pid
    return None


async def load(world: World, target: Target, requests: int, in_flight: int) -> dict[str, float]:
    """Send so many requests from a process of its own; what it measured."""
    options = {
        "exchange": target.exchange,
        "routing-key": target.routing_key,
        "reply-to": f"replies.{target.routing_key}.load",
        "requests": requests,
        "in-flight": in_flight,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.load",
        *(f"--{name}={value}" for name, value in options.items()),
        env=world.environment,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        log = target.service.log.read_text()[-2000:]
        raise RuntimeError(f"the load on {target.name} failed; the worker's log ends: {log}")
    measured: dict[str, float] = orjson.loads(output)
    return measured


async def measure(world: World, target: Target, requests: int, in_flight: int) -> Figures:
    """One round of a worker that is warm; what works for it is waited for."""
    rows = await world.mongo.usage.estimated_document_count()
    pid = target.service.process.pid
    before_s, beside_s = cpu_s(pid), {name: cpu_s(other) for name, other in target.beside.items()}
    measured = await load(world, target, requests, in_flight)
    worker_s = cpu_s(pid) - before_s
    if target.beside:
        await accounted(world, rows + requests)
    return Figures(
        name=target.name,
        requests_a_second=requests / measured["seconds"],
        p50_ms=measured["p50_ms"],
        p99_ms=measured["p99_ms"],
        cpu_ms_a_request=worker_s * 1000 / requests,
        beside_ms_a_request={
            name: (cpu_s(other) - beside_s[name]) * 1000 / requests for name, other in target.beside.items()
        },
        rss=psutil.Process(pid).memory_info().rss,
    )


async def accounted(world: World, attempts: int) -> None:
    """Wait until the ledger has so many rows."""

    async def there() -> bool:
        return await world.mongo.usage.estimated_document_count() >= attempts

    await eventually(there, f"{attempts} ledger rows", within_s=ACCOUNTED_S, every_s=0.2)


@asynccontextmanager
async def peer(world: World, name: str) -> AsyncIterator[Target]:
    """The naive or the floor worker."""
    service = await Service.start(
        world.folder / f"{name}.log",
        {**world.environment, "BENCH_BASE_URL": world.simulator.base_url},
        f"tests.bench.{name}_worker",
        name,
    )
    try:
        await service.wait_for("worker_ready")
        yield Target(name, service, "", name)
    finally:
        await service.stop()


async def keyway(world: World) -> Target:
    """Keyway's worker with three keys, and accounting; the world ends them."""
    automation = await world.add_automation()
    for alias in KEYS:
        await world.add_key(automation, alias, limits=LIMITS)
    accounting = await world.start_accounting()
    worker = await world.start_worker()
    beside = {"accounting": accounting.process.pid}
    if mongod := listening_on(world.environment["KEYWAY_MONGO_URL"]):
        beside["mongod"] = mongod
    return Target("keyway", worker, "requests", automation, beside)


async def run(folder: Path, requests: int, in_flight: int) -> list[Figures]:
    """The cheapest round of each worker."""
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(backing_services(folder))
        world = await stack.enter_async_context(new_world(services.environment, folder))
        targets = [await stack.enter_async_context(peer(world, name)) for name in ("naive", "floor")]
        targets.append(await keyway(world))
        for target in targets:
            await load(world, target, round(requests * WARM_UP), in_flight)
        await accounted(world, round(requests * WARM_UP))
        rounds = [
            await measure(world, target, requests, in_flight) for _ in range(ROUNDS) for target in targets
        ]
    return [
        min((one for one in rounds if one.name == target.name), key=lambda one: one.cpu_ms_a_request)
        for target in targets
    ]


def table(measured: list[Figures]) -> str:
    """The figures for people, each beside its ratio to the peers."""
    cost = {figures.name: figures.cpu_ms_a_request for figures in measured}
    heading = (
        f"{'worker':<8}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'CPU ms/request':>16}{'to naive':>10}{'to floor':>10}{'RSS MB':>8}"
    )
    lines = [
        f"{figures.name:<8}{figures.requests_a_second:>12.0f}"
        f"{figures.p50_ms:>9.1f}{figures.p99_ms:>9.1f}{figures.cpu_ms_a_request:>16.2f}"
        f"{figures.cpu_ms_a_request / cost['naive']:>10.2f}{figures.cpu_ms_a_request / cost['floor']:>10.2f}"
        f"{figures.rss / MEGABYTE:>8.0f}"
        for figures in measured
    ]
    beside = [
        f"{name} {cpu_ms:.2f}" for figures in measured for name, cpu_ms in figures.beside_ms_a_request.items()
    ]
    return "\n".join([heading, *lines, "", f"beside Keyway's worker, CPU ms/request: {', '.join(beside)}"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.worker_cpu", description="What one request costs a worker in CPU time."
    )
    parser.add_argument("--requests", type=int, default=2000, help="of each worker in each round")
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyway-bench-") as folder:
        measured = asyncio.run(run(Path(folder), options.requests, options.in_flight))
    sys.stdout.write(
        f"{ROUNDS} rounds of {options.requests} requests, {options.in_flight} in flight; "
        f"CPU is the worker process's, user and system\n\n{table(measured)}\n"
    )


if __name__ == "__main__":
    main()

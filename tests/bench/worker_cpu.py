"""What one request costs a worker in CPU time: Keyway with everything on, beside two peers in the same run.

    python -m tests.bench.worker_cpu [--requests 5000] [--in-flight 64]

naive: FastStream and the OpenAI SDK as they come (`naive_worker`). floor: the least that is safe
(`floor_worker`). All three run on uvloop, on the same RabbitMQ, against the same simulated provider; the
load comes from a process of its own. It uses the RabbitMQ and MongoDB that KEYWAY_AMQP_URL,
KEYWAY_AMQP_ADMIN_URL and KEYWAY_MONGO_URL name, in a vhost and a database that it makes and removes, or else
starts both. Figures depend on the machine; their ratios depend on it less.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import psutil  # type: ignore[import-untyped, unused-ignore]

from infra.local.stack import backing_services
from tests.harness import Service, World, eventually, new_world
from workers.keys.key import Limits

#: What a worker does before it is measured, as a share of what is measured.
WARM_UP = 0.2
#: High enough never to be met, in every dimension that is checked.
LIMITS = Limits(10**8, 10**11, 10**12)
KEYS = ("Primary", "Secondary", "Backup")
#: How long accounting may take for what a run left to it, in seconds.
ACCOUNTED_S = 120.0
MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one worker; CPU in seconds, user and system."""

    name: str
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float
    rss: int

    @property
    def cpu_ms_a_request(self) -> float:
        return self.cpu_s * 1000 / self.requests


@dataclass(frozen=True, slots=True)
class Target:
    """A worker that is ready, and how it is asked."""

    name: str
    service: Service
    exchange: str
    routing_key: str


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, user and system."""
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
    arguments = {
        "--exchange": target.exchange,
        "--routing-key": target.routing_key,
        "--reply-to": f"replies.{target.routing_key}.load",
        "--requests": str(requests),
        "--in-flight": str(in_flight),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.load",
        *(f"{name}={value}" for name, value in arguments.items()),
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
    """What a worker that is warm does and costs."""
    pid = target.service.process.pid
    before = cpu_s(pid)
    measured = await load(world, target, requests, in_flight)
    return Figures(
        name=target.name,
        requests=requests,
        seconds=measured["seconds"],
        p50_ms=measured["p50_ms"],
        p99_ms=measured["p99_ms"],
        cpu_s=cpu_s(pid) - before,
        rss=psutil.Process(pid).memory_info().rss,
    )


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


async def measure_keyway(world: World, requests: int, in_flight: int) -> tuple[Figures, dict[str, float]]:
    """Keyway's worker, and the CPU time of accounting and mongod meanwhile, in seconds."""
    automation = await world.add_automation()
    for alias in KEYS:
        await world.add_key(automation, alias, limits=LIMITS)
    accounting = await world.start_accounting()
    worker = await world.start_worker()
    pids = {"accounting": accounting.process.pid}
    if mongod := listening_on(world.environment["KEYWAY_MONGO_URL"]):
        pids["mongod"] = mongod
    target = Target("keyway", worker, "requests", automation)

    async def accounted(attempts: int) -> None:
        async def there() -> bool:
            return await world.mongo.usage.estimated_document_count() >= attempts

        await eventually(there, f"{attempts} ledger rows", within_s=ACCOUNTED_S, every_s=0.2)

    warm_up = round(requests * WARM_UP)
    await load(world, target, warm_up, in_flight)
    await accounted(warm_up)
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    figures = await measure(world, target, requests, in_flight)
    await accounted(warm_up + requests)
    return figures, {name: cpu_s(pid) - before[name] for name, pid in pids.items()}


def table(measured: list[Figures]) -> str:
    """The figures for people, each beside its ratio to the peers."""
    cost = {figures.name: figures.cpu_ms_a_request for figures in measured}
    heading = (
        f"{'worker':<8}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'CPU ms/request':>16}{'to naive':>10}{'to floor':>10}{'RSS MB':>8}"
    )
    lines = [
        f"{figures.name:<8}{figures.requests / figures.seconds:>12.0f}"
        f"{figures.p50_ms:>9.1f}{figures.p99_ms:>9.1f}{figures.cpu_ms_a_request:>16.2f}"
        f"{figures.cpu_ms_a_request / cost['naive']:>10.2f}{figures.cpu_ms_a_request / cost['floor']:>10.2f}"
        f"{figures.rss / MEGABYTE:>8.0f}"
        for figures in measured
    ]
    return "\n".join([heading, *lines])


async def run(folder: Path, requests: int, in_flight: int) -> None:
    async with backing_services(folder) as services, new_world(services.environment, folder) as world:
        measured = []
        for name in ("naive", "floor"):
            async with peer(world, name) as target:
                await load(world, target, round(requests * WARM_UP), in_flight)
                measured.append(await measure(world, target, requests, in_flight))
        keyway, beside = await measure_keyway(world, requests, in_flight)
    sys.stdout.write(
        f"{requests} requests each, {in_flight} in flight; CPU is the worker process's, user and system\n\n"
        f"{table([*measured, keyway])}\n\n"
        "beside Keyway's worker, CPU ms/request: "
        + ", ".join(f"{name} {seconds * 1000 / requests:.2f}" for name, seconds in beside.items())
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.worker_cpu", description="What one request costs a worker in CPU time."
    )
    parser.add_argument("--requests", type=int, default=5000, help="measured for each worker")
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyway-bench-") as folder:
        asyncio.run(run(Path(folder), options.requests, options.in_flight))


if __name__ == "__main__":
    main()

"""What one request leaves behind and costs each part: bytes in MongoDB, CPU of workers and servers.

    python -m tests.bench.footprint [--requests 3000]

It starts a RabbitMQ and a mongod of its own, so that their CPU is of these requests alone. The figures are
those that `tests/bench/capacity.py` calculates with.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped, unused-ignore]

from contracts import Keyway
from infra.local.stack import backing_services
from tests.conftest import URLS
from tests.harness import World, eventually, new_world
from workers.keys.key import Limits

KEYS = ("Primary", "Secondary", "Backup")
IN_FLIGHT = 64
#: Calls that are held at one time, and for how long, in milliseconds.
HELD, HELD_MS = 300, 30_000
PROGRAMS = 200
WARM_UP = 300
#: High enough never to be met, in every dimension that is checked.
LIMITS = Limits(10**8, 10**11, 10**12)
MESSAGES = [{"role": "user", "content": "Say in one sentence what a message broker is good for."}]
#: How long accounting may take for the rest, in seconds.
ACCOUNTED_S = 120.0


@dataclass(frozen=True, slots=True)
class Stored:
    """One collection: bytes for each document, before compression and without replicas."""

    name: str
    document: float
    indexes: float
    on_disk: float


def cpu_s(process: psutil.Process) -> float:
    """CPU time of a process so far, in seconds."""
    times = process.cpu_times()
    seconds: float = times.user + times.system
    return seconds


def listening_on(url: str) -> psutil.Process:
    """The process of this machine that listens at an address."""
    port = urlsplit(url).port
    listeners = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
    return psutil.Process(next(c.pid for c in listeners if c.laddr.port == port))


async def send(world: World, bot: str, count: int) -> None:
    """Have so many requests answered, and booked."""
    rows = await world.mongo.usage.estimated_document_count()
    free = asyncio.Semaphore(IN_FLIGHT)
    async with world.client(bot) as keyway, asyncio.TaskGroup() as asking:

        async def ask() -> None:
            async with free:
                await keyway.generate("/chat/completions", model="gpt-4o-mini", messages=MESSAGES)

        for _ in range(count):
            asking.create_task(ask())

    async def booked() -> bool:
        return await world.mongo.usage.estimated_document_count() >= rows + count

    await eventually(booked, "all in the ledger", within_s=ACCOUNTED_S, every_s=0.2)


async def held(world: World, bot: str, part: psutil.Process) -> float:
    """Bytes by which a worker grows for each of `HELD` calls that are under way at one time."""
    for alias in KEYS:
        await world.script(bot, alias, latency_ms=HELD_MS)
    before = part.memory_info().rss

    async def ask(keyway: Keyway) -> None:
        await keyway.generate("/chat/completions", model="gpt-4o-mini", messages=MESSAGES, timeout=120)

    async with world.client(bot) as keyway, asyncio.TaskGroup() as asking:
        for _ in range(HELD):
            asking.create_task(ask(keyway))

        async def all_under_way() -> bool:
            return await world.simulator.in_flight() >= HELD

        await eventually(all_under_way, f"{HELD} calls under way", within_s=60)
        grown = part.memory_info().rss - before
    return float(grown / HELD)


async def connected(world: World, bot: str, part: psutil.Process) -> float:
    """Bytes by which RabbitMQ grows for each program that is connected, with a reply queue."""
    before = part.memory_info().rss
    async with AsyncExitStack() as stack:
        for _ in range(PROGRAMS):
            await stack.enter_async_context(world.client(bot))
        return float((part.memory_info().rss - before) / PROGRAMS)


async def stored(world: World, name: str) -> Stored:
    """What a collection takes for each of its documents."""
    await world.mongo.database.client.admin.command("fsync")
    found = await world.mongo.database.command("collStats", name)
    count = found["count"]
    return Stored(name, found["avgObjSize"], found["totalIndexSize"] / count, found["storageSize"] / count)


async def sealed_result(world: World) -> float:
    """Bytes of a journal entry that are the answer; the rest does not grow with it."""
    average = {"$group": {"_id": None, "bytes": {"$avg": {"$binarySize": "$result.ciphertext"}}}}
    (found,) = [one async for one in world.mongo.requests.aggregate([average])]
    size: float = found["bytes"]
    return size


async def run(folder: Path, requests: int) -> str:
    """The figures, for people."""
    for name in URLS:
        os.environ.pop(name, None)
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(backing_services(folder))
        world = await stack.enter_async_context(new_world(services.environment, folder))
        bot = await world.add_automation()
        for alias in KEYS:
            await world.add_key(bot, alias, limits=LIMITS)
        worker = await world.start_worker(KEYWAY_LANE_PREFETCH=str(HELD))
        accounting = await world.start_accounting()
        parts = {
            "worker": psutil.Process(worker.process.pid),
            "accounting": psutil.Process(accounting.process.pid),
            "mongod": listening_on(world.environment["KEYWAY_MONGO_URL"]),
            "rabbitmq": listening_on(world.environment["KEYWAY_AMQP_URL"]),
        }
        await send(world, bot, WARM_UP)
        before = {name: cpu_s(process) for name, process in parts.items()}
        await send(world, bot, requests)
        cpu_ms = {name: (cpu_s(part) - before[name]) * 1000 / requests for name, part in parts.items()}
        lines = [f"{requests} requests, {IN_FLIGHT} in flight, 3 keys", ""]
        lines += [
            f"{name:<12}{cpu_ms[name]:>8.2f} ms CPU a request{part.memory_info().rss / 2**20:>8.0f} MB"
            for name, part in parts.items()
        ]
        lines.append("")
        for name in ("usage", "requests"):
            found = await stored(world, name)
            lines.append(
                f"{name:<12}{found.document:>8.0f} bytes a document{found.indexes:>8.0f} of indexes"
                f"{found.on_disk:>8.0f} on disk, compressed, without indexes"
            )
        lines.append(f"{'':<12}{await sealed_result(world):>8.0f} of them in `requests` are the answer")
        call, program = (
            await held(world, bot, parts["worker"]),
            await connected(world, bot, parts["rabbitmq"]),
        )
        lines += [
            "",
            f"{call / 1000:.0f} KB of a worker for a call that is under way, {HELD} at a time",
            f"{program / 1000:.0f} KB of RabbitMQ for a program that is connected, {PROGRAMS} at a time",
        ]
        return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.footprint", description="What one request costs each part."
    )
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyway-bench-") as folder:
        sys.stdout.write(asyncio.run(run(Path(folder), options.requests)) + "\n")


if __name__ == "__main__":
    main()

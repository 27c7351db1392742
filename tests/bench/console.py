"""How fast the console's HTTP API answers with many automations, many keys and a month of books.

    python -m tests.bench.console [--automations 1000] [--keys 3000] [--rows 1000000]

It prints, for each endpoint that a page stands on, how long the first answer takes, and the median of some
more. It uses the services that `worker_cpu` uses.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from infra.broker import lane
from infra.local.stack import backing_services
from infra.queue_declaration import declare_queue
from infra.vault import Vault
from tests.bench.console_books import automation_ids, seed
from tests.console import Console, open_console
from tests.harness import World, new_world

REPEATS = 5
#: What the issue asks for, in milliseconds.
GOAL_MS = 1000
BUSY, QUIET = "automation-0000", "automation-0999"
ENDPOINTS = {
    "overview": "/api/overview",
    "automations": "/api/automations",
    "keys, a page": "/api/keys",
    "keys, searched": "/api/keys?text=key 02",
    "lanes": "/api/lanes",
    "dead letters": "/api/dead-letters",
    "alerts": "/api/alerts?everything=true",
    "usage by key": "/api/usage?by=key",
    "usage by automation": "/api/usage?by=automation",
    "usage by user": "/api/usage?by=user",
    "usage by model": "/api/usage?by=model",
    "usage of one automation": f"/api/usage?by=user&automation_id={BUSY}",
    "usage as CSV": "/api/usage.csv?by=key",
    "requests": "/api/requests",
    "requests, a later page": "/api/requests?before=2026-01-01T00:00:00Z",
    "requests that failed": "/api/requests?status=failed",
    "requests that timed out": "/api/requests?outcome=timeout",
    "requests of an automation": f"/api/requests?automation_id={QUIET}",
    "requests of a user": "/api/requests?user_id=user-19999",
    "requests by id": "/api/requests?request_id=r-500000",
    "one request": f"/api/requests/{BUSY}/none",
    "audit log": "/api/audit",
}


async def measure(console: Console, path: str) -> tuple[int, float, float, int]:
    """The status, milliseconds of the first answer and of the median of some more, and bytes of one."""
    times, answer = [], None
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        answer = await console.viewer.call("GET", path)
        times.append((time.perf_counter() - began) * 1000)
    assert answer is not None
    return answer.status, times[0], statistics.median(times[1:]), len(answer.text)


async def declare_lanes(world: World, count: int) -> None:
    for automation in automation_ids(count):
        await declare_queue(world.connection, lane(automation, world.settings))


async def run(folder: Path, *, automations: int, keys: int, rows: int) -> None:
    async with AsyncExitStack() as stack:
        backing = await stack.enter_async_context(backing_services(folder / "backing"))
        world = await stack.enter_async_context(new_world(backing.environment, folder))
        began = time.monotonic()
        vault = Vault(world.settings.master_keys)
        await seed(world.mongo, vault, automations=automations, keys=keys, rows=rows)
        await declare_lanes(world, automations)
        totals = await world.mongo.usage_daily.estimated_document_count()
        say(
            f"{automations:,} automations, {keys:,} keys, {rows:,} ledger rows, {totals:,} totals, "
            f"seeded in {time.monotonic() - began:.0f} s\n\n"
        )
        console = await stack.enter_async_context(open_console(world))
        say(f"{'':<28}{'status':>7}{'first ms':>10}{'median ms':>11}{'kB':>8}\n")
        slow = []
        for name, path in ENDPOINTS.items():
            status, first_ms, median_ms, size = await measure(console, path)
            say(f"{name:<28}{status:>7}{first_ms:>10.0f}{median_ms:>11.0f}{size / 1000:>8.0f}\n")
            if max(first_ms, median_ms) > GOAL_MS:
                slow.append(name)
        say(f"\nover {GOAL_MS} ms: {', '.join(slow) or 'none'}\n")


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.console", description="How fast the console answers over large books."
    )
    parser.add_argument("--automations", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=3000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyway-bench-") as folder:
        asyncio.run(run(Path(folder), automations=options.automations, keys=options.keys, rows=options.rows))


if __name__ == "__main__":
    main()

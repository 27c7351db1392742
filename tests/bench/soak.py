"""A steady load for long: whether memory and latency stay what they are.

    python -m tests.bench.soak [--minutes 30] [--share 0.7] [--window-s 30]

First it is found what one worker can do; then an open loop asks for a share of it. A line is printed for each
window. What counts is the last third of the time beside the second, since the first warms up.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

import orjson

from tests.bench.latencies import Latencies
from tests.bench.part import Bench, Finding, Goal, Report, columns, open_bench, provider
from tests.bench.peers import send, spread_load
from tests.bench.processes import cpu_ms_a_request, cpu_s, listening_on, memory_mb
from tests.bench.seeding import seed
from tests.bench.worker_cpu import IN_FLIGHT, accounted
from tests.harness import World

AUTOMATIONS = 20
CAPACITY_REQUESTS = 2000
MINUTES, SHARE, WINDOW_S = 30.0, 0.7, 30.0
MEMORY = Goal("soak: worker's memory, last third to second third", 1.05)
LATENCY = Goal("soak: p50, last third to second third", 1.2)


@dataclass(slots=True)
class Window:
    """What was seen in one stretch of time."""

    minute: float
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    worker_mb: float
    accounting_mb: float
    mongod_mb: float
    rabbitmq_mb: float
    #: Usage events that were not in the ledger when the last answer came.
    unbooked: int


FORMATS = ("{:.1f}", "{:.0f}", "{:.1f}", "{:.1f}", "{:.2f}", *("{:.0f}",) * 4, "{:,}")
HEADINGS = (
    *("minute", "answers/s", "p50 ms", "p99 ms", "CPU ms/request"),
    *("worker MB", "accounting MB", "mongod MB", "rabbitmq MB", "unbooked"),
)


def line(window: Window) -> str:
    """One window for people."""
    cells = [form.format(value) for form, value in zip(FORMATS, asdict(window).values(), strict=True)]
    return "  ".join(cell.rjust(len(heading)) for cell, heading in zip(cells, HEADINGS, strict=True))


async def run(
    bench: Bench, *, minutes: float, share: float, window_s: float, say: Callable[[str], object]
) -> list[Window]:
    """The windows, in order; each is told when it is over."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        base_url = await stack.enter_async_context(provider(bench.folder))
        command = spread_load(world.folder, await seed(bench, world, base_url, AUTOMATIONS))
        accounting, worker = await world.start_accounting(), await world.start_worker()
        pids = {"worker": worker.process.pid, "accounting": accounting.process.pid}
        for name, variable in (("mongod", "KEYWAY_MONGO_URL"), ("rabbitmq", "KEYWAY_AMQP_URL")):
            if pid := listening_on(world.environment[variable]):
                pids[name] = pid
        bench.step("soak: what one worker can do")
        for _ in range(2):
            most = await send(world, command, f"--requests={CAPACITY_REQUESTS}", f"--in-flight={IN_FLIGHT}")
        rate = most.rate * share
        say(f"one worker: {most.rate:.0f} answers/s; {share:.0%} of it, {rate:.0f}/s, for {minutes:g} min\n")
        say("  ".join(HEADINGS))
        windows: list[Window] = []
        began = time.monotonic()
        while (passed_s := time.monotonic() - began) < minutes * 60:
            bench.step(f"soak: minute {passed_s / 60:.1f} of {minutes:g}")
            windows.append(await _window(world, command, pids, rate, round(rate * window_s)))
            windows[-1].minute = (time.monotonic() - began) / 60
            say(line(windows[-1]))
        await accounted(world, await world.mongo.requests.count_documents({"status": "succeeded"}))
    return windows


async def _window(
    world: World, command: tuple[str, ...], pids: dict[str, int], rate: float, requests: int
) -> Window:
    before_s = cpu_s([pids["worker"]])
    load = await send(world, command, f"--requests={requests}", f"--rate={rate}")
    cpu_ms = cpu_ms_a_request(before_s, cpu_s([pids["worker"]]), requests)
    latencies = Latencies.decoded([load.latencies])
    booked = await world.mongo.usage.estimated_document_count()
    answered = await world.mongo.requests.estimated_document_count()
    memory = {
        f"{name}_mb": memory_mb([pids[name]]) if name in pids else 0.0
        for name in ("worker", "accounting", "mongod", "rabbitmq")
    }
    return Window(
        minute=0,
        rate=load.rate,
        p50_ms=latencies.percentile_ms(50),
        p99_ms=latencies.percentile_ms(99),
        cpu_ms=cpu_ms,
        unbooked=max(0, answered - booked),
        **memory,
    )


def last_to_second(values: Sequence[float]) -> float:
    """The median of the last third of values to the second third's.

    Raises:
        ValueError: there are fewer than three.
    """
    third = len(values) // 3
    if not third:
        raise ValueError("fewer than three windows: run for longer, or with a shorter --window-s")
    return statistics.median(values[-third:]) / statistics.median(values[third : 2 * third])


def summary(windows: list[Window]) -> Report:
    """The windows as a report."""
    rows: list[tuple[str, ...]] = [
        (
            "",
            *HEADINGS[1:],
        )
    ]
    third = max(1, len(windows) // 3)
    for name, some in (
        ("first third", windows[:third]),
        ("second", windows[third : 2 * third]),
        ("last", windows[-third:]),
    ):
        medians = [
            statistics.median(asdict(window)[field] for window in some)
            for field in list(Window.__dataclass_fields__)[1:]
        ]
        shown = (form.format(value) for form, value in zip(FORMATS[1:], medians, strict=True))
        rows.append((name, *shown))
    findings = [
        Finding(MEMORY, last_to_second([window.worker_mb for window in windows])),
        Finding(LATENCY, last_to_second([window.p50_ms for window in windows])),
    ]
    title = f"Soak of {windows[-1].minute:.0f} minutes"
    return Report(title, columns(rows), findings, {"windows": [asdict(window) for window in windows]})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--share", type=float, default=SHARE, help="of what one worker can do")
    parser.add_argument("--window-s", type=float, default=WINDOW_S)
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    if options.minutes * 60 < 3 * options.window_s:
        parser.error("expected at least three windows: more --minutes, or a shorter --window-s")
    told = sys.stderr if options.json else sys.stdout

    async def soaked() -> Report:
        async with open_bench(quick=False) as bench:
            windows = await run(
                bench,
                minutes=options.minutes,
                share=options.share,
                window_s=options.window_s,
                say=lambda text: print(text, file=told, flush=True),
            )
        return summary(windows)

    found = asyncio.run(soaked())
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found.document(), option=orjson.OPT_INDENT_2) + b"\n")
    else:
        sys.stdout.write(f"\n{found.text()}")


if __name__ == "__main__":
    main()

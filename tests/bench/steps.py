"""Where the time of a lone request goes, step by step, in a worker with everything on.

python -m tests.bench.steps [--quick]
"""

import statistics
from contextlib import AsyncExitStack

import orjson

from tests.bench.added_latency import RATE
from tests.bench.latencies import Latencies
from tests.bench.part import Bench, Report, bench_automation, columns, provider, run_alone
from tests.bench.peers import amqp_load, send
from tests.bench.timed_worker import STEPS
from tests.harness import Service

WARM_UP, REQUESTS, QUICK_REQUESTS = 100, 1000, 300
WHOLE, BESIDE = "all of it", "usage event, beside the reply"


async def report(bench: Bench) -> Report:
    """One worker whose steps are timed."""
    requests = QUICK_REQUESTS if bench.quick else REQUESTS
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        base_url = await stack.enter_async_context(provider(bench.folder))
        command = amqp_load(await bench_automation(world, base_url), exchange="requests")
        await world.start_accounting()
        taken = world.folder / "steps.json"
        environment = {**world.environment, "BENCH_STEPS": str(taken)}
        worker = await Service.start(
            world.folder / "timed.log", environment, "tests.bench.timed_worker", "worker"
        )
        world.services.append(worker)
        await worker.wait_for("worker_ready")
        bench.step("steps: lone requests")
        await send(world, command, f"--requests={WARM_UP}", "--in-flight=1")
        load = await send(world, command, f"--requests={requests}", f"--rate={RATE}")
        await worker.stop()
        steps: dict[str, list[float]] = {
            name: times[WARM_UP:] for name, times in orjson.loads(taken.read_bytes()).items()
        }
    medians = {name: statistics.median(steps[name]) for name in STEPS}
    tails = {name: statistics.quantiles(steps[name], n=100)[98] for name in STEPS}
    known = sum(ms for name, ms in medians.items() if name not in {WHOLE, BESIDE})
    seen = Latencies.decoded([load.latencies])
    rows: list[tuple[str, ...]] = [
        ("", "p50 ms", "p99 ms"),
        *((name, f"{medians[name]:.2f}", f"{tails[name]:.2f}") for name in STEPS),
        ("in between", f"{medians[WHOLE] - known:.2f}", ""),
        ("as the caller sees it", f"{seen.percentile_ms(50):.2f}", f"{seen.percentile_ms(99):.2f}"),
    ]
    title = f"Where the time of a lone request goes, {RATE} a second, instant provider"
    return Report(title, columns(rows), figures=medians)


if __name__ == "__main__":
    run_alone(report, "tests.bench.steps", __doc__ or "")

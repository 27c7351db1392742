"""Where the time goes: a profile of Keyway's worker, or of accounting, under the load of `worker_cpu`.

    python -m tests.bench.flame [worker|accounting] [--svg FILE] [--seconds 15] [--automations 1]
        [--in-flight 64] [--latency-s 0]

It prints how much of its CPU time each package has: that of the function that runs, or of who called it where
that is Python's own. With `--svg` it writes a flame graph.
"""

import argparse
import asyncio
import re
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from tests.bench.in_flight import MAX_IN_FLIGHT
from tests.bench.part import Bench, columns, open_bench, provider
from tests.bench.peers import send, spread_load
from tests.bench.processes import cpu_s
from tests.bench.seeding import seed
from tests.bench.tool_environments import BIN
from tests.bench.worker_cpu import IN_FLIGHT

WARM_UP = 500
#: Looks a second; not a divisor of what timers use.
RATE = 199
#: Of a folded stack, each frame is `function (file:line)`.
FRAME = re.compile(r"^(?P<function>.+?) \((?P<file>[^()]*?)(:\d+)?\)$")
OWN = ("contracts", "infra", "workers")


def package_of(frame: str) -> str | None:
    """Whose a frame is: ours by module, a package, or None for what is Python's own."""
    found = FRAME.match(frame)
    if found is None:
        return None
    file = found["file"]
    if "site-packages/" in file:
        return file.rpartition("site-packages/")[2].split("/")[0].removesuffix(".py")
    for own in OWN:
        if file.startswith(f"{own}/") or f"/{own}/" in file:
            inside = file[file.index(f"{own}/") :].removesuffix(".py").split("/")
            return ".".join(inside[:3])
    return None


def shares(folded: Iterable[str]) -> Counter[str]:
    """Samples by whose they are, of folded stacks: `outermost;…;innermost count`."""
    counted: Counter[str] = Counter()
    for stack in folded:
        frames, _, count = stack.rstrip().rpartition(" ")
        owners = (package_of(frame) for frame in reversed(frames.split(";")))
        counted[next((owner for owner in owners if owner), "Python's own")] += int(count)
    return counted


async def profile(bench: Bench, options: argparse.Namespace) -> tuple[list[str], float]:
    """Folded stacks of a service under load, and the CPU time that it had, in ms a request."""
    seconds, in_flight = options.seconds, f"--in-flight={options.in_flight}"
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        base_url = await stack.enter_async_context(provider(bench.folder, options.latency_s))
        command = spread_load(world.folder, await seed(bench, world, base_url, options.automations))
        accounting = await world.start_accounting()
        worker = await world.start_worker(KEYWAY_MAX_IN_FLIGHT=str(MAX_IN_FLIGHT))
        pid = {"accounting": accounting, "worker": worker}[options.which].process.pid
        bench.step("flame: warming up")
        warm_up = max(WARM_UP, options.automations, 2 * options.in_flight)
        load = await send(world, command, f"--requests={warm_up}", in_flight)
        requests = round(load.rate * seconds * 1.5)
        bench.step(f"flame: {requests} requests")
        before_s = cpu_s([pid])
        loading = asyncio.create_task(send(world, command, f"--requests={requests}", in_flight))
        folded = bench.folder / "folded.txt"
        await _record(pid, seconds, folded, "raw", "--full-filenames")
        if options.svg:
            await _record(pid, seconds, options.svg, "flamegraph")
        await loading
        cpu_ms = (cpu_s([pid]) - before_s) * 1000 / requests
        return folded.read_text().splitlines(), cpu_ms


async def _record(pid: int, seconds: int, file: Path, form: str, *more: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(BIN / "py-spy"), "record", "--pid", str(pid), "--duration", str(seconds)),
        *("--rate", str(RATE), "--gil", "--nonblocking", "--format", form, "--output", str(file), *more),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"py-spy: {complaint.decode()[-500:]}")


def table(folded: Iterable[str], cpu_ms: float) -> str:
    """The shares for people; what has less than 1 % is summed."""
    counted = shares(folded)
    total = counted.total()
    rows: list[tuple[str, ...]] = [("", "share", "ms a request")]
    small = 0
    for name, count in counted.most_common():
        if count < total * 0.01:
            small += count
        else:
            rows.append((name, f"{count / total:.1%}", f"{cpu_ms * count / total:.3f}"))
    rows.append(("less than 1 % each", f"{small / total:.1%}", f"{cpu_ms * small / total:.3f}"))
    return columns(rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.flame",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("which", choices=("worker", "accounting"), nargs="?", default="worker")
    parser.add_argument("--svg", type=Path, help="where the flame graph is written to")
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--automations", type=int, default=1, help="asked in turns")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT)
    parser.add_argument("--latency-s", type=float, default=0, help="what the provider takes")
    options = parser.parse_args()

    async def profiled() -> tuple[list[str], float]:
        async with open_bench(quick=False) as bench:
            return await profile(bench, options)

    folded, cpu_ms = asyncio.run(profiled())
    sys.stdout.write(f"{options.which}: {cpu_ms:.2f} ms CPU a request\n\n{table(folded, cpu_ms)}\n")


if __name__ == "__main__":
    main()

"""Every goal of docs/performance.md, measured in one run.

    python -m tests.bench [--quick] [--parts worker_cpu,size] [--json] [--write]

Each part runs alone too: `python -m tests.bench.worker_cpu`. The quick form measures fewer rounds, and leaves
out what needs a thousand automations or several workers. `--write`, in the long form, brings
docs/performance.md up to date.
"""

import argparse
import asyncio
import sys
import traceback

import orjson

from tests.bench import (
    accounting_rate,
    added_latency,
    first_chunk,
    fleet,
    in_flight,
    noisy_neighbour,
    page,
    size,
    stuck_lane,
    worker_cpu,
)
from tests.bench.part import Measure, Report, open_bench

PARTS: dict[str, Measure] = {
    "worker_cpu": worker_cpu.report,
    "added_latency": added_latency.report,
    "first_chunk": first_chunk.report,
    "in_flight": in_flight.report,
    "accounting_rate": accounting_rate.report,
    "size": size.report,
    "fleet": fleet.report,
    "noisy_neighbour": noisy_neighbour.report,
    "stuck_lane": stuck_lane.report,
}
QUICK = ("worker_cpu", "added_latency", "in_flight", "accounting_rate", "noisy_neighbour")


async def run(options: argparse.Namespace, parts: list[str]) -> tuple[dict[str, Report], list[str]]:
    """The reports, and the parts that failed: the others are measured all the same."""
    reports: dict[str, Report] = {}
    failed: list[str] = []
    async with open_bench(quick=options.quick) as bench:
        where = await page.machine(bench)
        for part in parts:
            try:
                reports[part] = await PARTS[part](bench)
            except Exception:  # noqa: BLE001  # what was measured so far is not to be lost
                traceback.print_exc()
                failed.append(part)
            else:
                if not options.json:
                    sys.stdout.write(f"{reports[part].text()}\n")
                    sys.stdout.flush()
        if options.write:
            page.write(bench, reports, where)
    if options.json:
        document = {"where": where, "parts": {part: report.document() for part, report in reports.items()}}
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return reports, failed


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, the parts that matter most")
    parser.add_argument("--parts", help=f"by comma, of {', '.join(PARTS)}")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--write", action="store_true", help="bring docs/performance.md up to date")
    options = parser.parse_args()
    parts = list(QUICK if options.quick else PARTS)
    if options.parts:
        parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if options.write and set(parts) != set(PARTS):
        parser.error(
            "the page tells of every part: --write goes with all of them, not with --quick or --parts"
        )
    _, failed = asyncio.run(run(options, parts))
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""docs/performance.md: the figures of the last run between two marks, and the plot beside them."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import aiormq
import orjson
import psutil  # type: ignore[import-untyped, unused-ignore]

from infra.mongo import run_command
from tests.bench.part import Bench, Report, quantity
from tests.bench.tool_environments import PLOT

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PICTURE = DOCS / "performance.md", DOCS / "performance.svg"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
GIGABYTE = 1024**3


async def machine(bench: Bench) -> str:
    """On what it was measured, and how busy that was at the start."""
    build = await run_command(bench.environment["KEYWAY_MONGO_URL"], {"buildInfo": 1})
    connection = await aiormq.connect(bench.environment["KEYWAY_AMQP_URL"])
    try:
        version = connection.server_properties["version"]
        rabbitmq = version.decode() if isinstance(version, bytes) else version
    finally:
        await connection.close()
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)  # noqa: ASYNC240
    processor = model[1] if model else platform.machine()
    memory = psutil.virtual_memory().total / GIGABYTE
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {psutil.cpu_count()} cores of {processor}, {memory:.0f} GB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"RabbitMQ {rabbitmq}, MongoDB {build['version']}; load average at the start {os.getloadavg()[0]:.1f}"
    )


def goals(reports: Mapping[str, Report]) -> str:
    """The table of goals, as Markdown."""
    lines = ["| what | goal | measured | | reproduce |", "|---|---|---|---|---|"]
    for part, report in reports.items():
        for found in report.findings:
            unit = found.goal.unit
            cells = (found.goal.what, found.goal.text, quantity(found.value, unit), found.verdict)
            lines.append(f"| {' | '.join(cells)} | `python -m tests.bench.{part}` |")
    return "\n".join(lines)


def section(reports: Mapping[str, Report], where: str) -> str:
    """What stands between the marks."""
    parts = [f"Measured {where}.", "", goals(reports), ""]
    if {"worker_cpu", "added_latency"} <= reports.keys():
        parts += ["![CPU and latency beside peers](performance.svg)", ""]
    for report in reports.values():
        parts += [f"**{report.title}**", "", "```", report.table, "```", ""]
    return "\n".join(parts)


def with_section(page: str, text: str) -> str:
    """The page with other figures between its marks.

    Raises:
        ValueError: it lacks them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{text}{END}{after}"


def write(bench: Bench, reports: Mapping[str, Report], where: str) -> None:
    """Bring the page and the plot up to date."""
    PAGE.write_text(with_section(PAGE.read_text(), section(reports, where)))
    if not {"worker_cpu", "added_latency"} <= reports.keys():
        return
    PLOT.ensure(bench.console)
    peers, latencies = reports["worker_cpu"].figures["peers"], reports["added_latency"].figures
    figures = {
        "cpu": {name: peer["cpu_ms"] for name, peer in peers.items()},
        "latency": {name: [one["p50_ms"], one["p99_ms"]] for name, one in latencies.items()},
    }
    command = (PLOT.python, str(Path(__file__).with_name("plot.py")), str(PICTURE))
    subprocess.run(command, input=orjson.dumps(figures), check=True)

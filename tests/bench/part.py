"""What the parts of the benchmark have in common: services, a provider, progress, goals and figures."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.local.stack import backing_services
from tests.harness import Service, World, child_environment, eventually, new_world
from workers.keys.key import Limits

#: High enough never to be met, in every dimension that is checked.
LIMITS = Limits(10**8, 10**11, 10**12)
KEYS = ("Primary", "Secondary", "Backup")


@dataclass(frozen=True)
class Goal:
    """One bound of the table in docs/performance.md."""

    what: str
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def text(self) -> str:
        """The bound for people."""
        return f"{'≥' if self.at_least else '≤'} {quantity(self.bound, self.unit)}"


@dataclass(frozen=True)
class Finding:
    """What was measured for a goal."""

    goal: Goal
    value: float

    @property
    def met(self) -> bool:
        """Whether it is within the bound."""
        return self.value >= self.goal.bound if self.goal.at_least else self.value <= self.goal.bound

    @property
    def verdict(self) -> str:
        """Whether it is met, or by how much it is missed."""
        if self.met:
            return "met"
        return f"missed by {abs(self.value / self.goal.bound - 1) * 100:.0f} %"


def quantity(value: float, unit: str) -> str:
    """A number as one reads it."""
    shown = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
    return f"{shown} {unit}".rstrip()


@dataclass
class Report:
    """One part's outcome."""

    title: str
    #: For people: the figures as a plain table.
    table: str
    findings: list[Finding] = field(default_factory=list)
    #: For programs.
    figures: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The part for people."""
        lines = [f"{self.title}\n", self.table]
        if self.findings:
            rows = [
                (found.goal.what, found.goal.text, quantity(found.value, found.goal.unit), found.verdict)
                for found in self.findings
            ]
            lines += ["", columns([("goal", "bound", "measured", ""), *rows])]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, Any]:
        """The part as JSON."""
        found = [{**asdict(one), "met": one.met} for one in self.findings]
        return {"title": self.title, "findings": found, "figures": self.figures}


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with their columns one under the other; the first column is text, the others are figures."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


@dataclass
class Bench:
    """Where a run measures: RabbitMQ and MongoDB, a folder, and who is told how far it is."""

    environment: dict[str, str]
    folder: Path
    quick: bool
    console: Console
    progress: Progress
    worlds: int = 0

    def step(self, text: str) -> None:
        """Tell what is done now."""
        if self.console.is_terminal:
            for task in self.progress.task_ids:
                self.progress.update(task, description=text)
        else:
            self.console.print(text, highlight=False)

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        """A Keyway of its own: a vhost and a database that go away with it."""
        self.worlds += 1
        folder = self.folder / f"world-{self.worlds}"
        folder.mkdir()
        async with new_world(self.environment, folder) as world:
            yield world


async def bench_automation(world: World, base_url: str, name: str | None = None) -> str:
    """An automation with three keys whose limits are checked and never met."""
    automation = await world.add_automation(name)
    for alias in KEYS:
        await world.add_key(automation, alias, limits=LIMITS, base_url=base_url)
    return automation


@asynccontextmanager
async def provider(folder: Path, latency_s: float = 0) -> AsyncIterator[str]:
    """The benchmark's provider; its base URL."""
    folder = Path(tempfile.mkdtemp(prefix="provider-", dir=folder))
    port_file = folder / "port"
    service = await Service.start(
        folder / "provider.log",
        child_environment(),
        "tests.bench.provider",
        str(port_file),
        f"--latency-s={latency_s}",
    )

    async def listens() -> bool:
        if service.process.returncode is not None:
            raise RuntimeError(service.log.read_text()[-2000:])
        return port_file.exists() and port_file.read_text().endswith("\n")

    try:
        await eventually(listens, "the provider's port", within_s=60)
        yield f"http://127.0.0.1:{port_file.read_text().strip()}/v1"
    finally:
        await service.stop()


@asynccontextmanager
async def open_bench(*, quick: bool) -> AsyncIterator[Bench]:
    """The services that KEYWAY_AMQP_URL, KEYWAY_AMQP_ADMIN_URL and KEYWAY_MONGO_URL name, else own ones."""
    console = Console(stderr=True)
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyway-bench-")))
        bench = Bench({}, folder, quick, console, progress)
        if console.is_terminal:
            stack.enter_context(progress)
            progress.add_task("", total=None)
        bench.step("starting RabbitMQ and MongoDB")
        services = await stack.enter_async_context(backing_services(folder / "backing"))
        bench.environment = services.environment
        yield bench


Measure = Callable[[Bench], Awaitable[Report]]


def run_alone(measure: Measure, module: str, description: str) -> None:
    """The command line of one part."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()

    async def run() -> Report:
        async with open_bench(quick=options.quick) as bench:
            return await measure(bench)

    report = asyncio.run(run())
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(report.document(), option=orjson.OPT_INDENT_2) + b"\n")
    else:
        sys.stdout.write(report.text())

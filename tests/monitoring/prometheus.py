"""A real Prometheus over the services of a test's Keyway, with the rules that are shipped."""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from infra.local.ports import LOOPBACK, choose_ports
from tests.harness import PATIENCE_S, World, eventually
from tests.monitoring.programs import program
from tests.scraped import target

RULES = Path(__file__).parents[2] / "infra/deploy/prometheus/rules.yml"
#: How often tests scrape, and look at the rules.
INTERVAL = "2s"
#: The services' logs by the job that docker-compose's Prometheus scrapes them in.
JOBS = {
    "keyway-worker": "worker",
    "keyway-accounting": "accounting",
    "keyway-leasing": "leasing",
    "keyway-console": "console",
}


@dataclass(frozen=True)
class Sample:
    """One series of an answer."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs."""

    url: str
    session: aiohttp.ClientSession

    async def query(self, expression: str) -> list[Sample]:
        """What an expression says now; series that are not a number are left out."""
        parameters = {"query": expression}
        async with self.session.get(f"{self.url}/api/v1/query", params=parameters) as response:
            answer: dict[str, Any] = await response.json()
        assert answer["status"] == "success", (expression, answer)
        found = [Sample(entry["metric"], float(entry["value"][1])) for entry in answer["data"]["result"]]
        return [sample for sample in found if not math.isnan(sample.value)]

    async def value(self, expression: str) -> float:
        """The sum of what an expression says now."""
        return sum(sample.value for sample in await self.query(expression))

    async def firing(self) -> list[dict[str, str]]:
        """The labels of the alerts that fire."""
        async with self.session.get(f"{self.url}/api/v1/alerts") as response:
            alerts = (await response.json())["data"]["alerts"]
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]

    async def fires(self, alert: str, **labels: str) -> bool:
        """Whether an alert fires with these labels, among others."""
        wanted = {"alertname": alert, **labels}
        return any(wanted.items() <= found.items() for found in await self.firing())


def targets(world: World) -> dict[str, list[str]]:
    """Addresses of the world's services, dead or alive, by job."""
    kinds: dict[str, list[str]] = {job: [] for job in JOBS}
    for service in world.services:
        kind = service.log.name.rpartition("-")[0]
        for job, of_job in JOBS.items():
            if kind == of_job:
                kinds[job].append(target(service))
    return kinds


async def rabbitmq_target(world: World) -> str:
    """Where the world's RabbitMQ has its own metrics."""
    overview = await world.admin.call("GET", "overview")
    (port,) = {found["port"] for found in overview["listeners"] if found["protocol"] == "http/prometheus"}
    return f"{urlsplit(world.settings.amqp_admin_url.get_secret_value()).hostname}:{port}"


def without_patience(rules: str) -> str:
    """The rules as they are shipped, but that they fire at once: `for:` is for people's sake."""
    return re.sub(r"for: \w+", "for: 0s", rules)


@asynccontextmanager
async def run_prometheus(folder: Path, jobs: Mapping[str, Iterable[str]]) -> AsyncIterator[Prometheus]:
    """Run one that scrapes these targets, by job, until the end."""
    (folder / "rules.yml").write_text(without_patience(RULES.read_text()))
    # JSON is YAML.
    configuration = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(found)}]} for job, found in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    port = choose_ports({"prometheus": None}, {})["prometheus"]
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            await asyncio.to_thread(program, "prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            prometheus = Prometheus(f"http://{LOOPBACK}:{port}", session)

            async def is_ready() -> bool:
                assert process.returncode is None, (folder / "prometheus.log").read_text()[-2000:]
                try:
                    async with session.get(f"{prometheus.url}/-/ready") as response:
                        return response.status == 200
                except (aiohttp.ClientError, TimeoutError):
                    return False

            await eventually(is_ready, "Prometheus")
            yield prometheus
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()

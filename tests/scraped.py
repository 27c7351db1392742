"""What services tell Prometheus, as tests read it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import Service, World


def metrics_url(service: Service) -> str:
    """Where a service's metrics are, by its own word; the last one is of its last start."""
    lines = service.log.read_text().splitlines()
    served = next(line for line in reversed(lines) if '"metrics_served"' in line)
    return str(json.loads(served)["url"])


def target(service: Service) -> str:
    """The same as Prometheus wants it: `host:port`."""
    return urlsplit(metrics_url(service)).netloc


def services(world: World, *kinds: str) -> list[Service]:
    """The running services of these kinds, by the names of their logs."""
    return [
        service
        for service in world.services
        if service.log.name.rpartition("-")[0] in kinds and service.process.returncode is None
    ]


@dataclass(frozen=True)
class Scraped:
    """The metrics of some processes."""

    families: list[Metric]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels, among others."""
        return sum(
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels_of(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Sums by one label's values."""
        found: dict[str, float] = {}
        for family in self.families:
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    value = sample.labels[label]
                    found[value] = found.get(value, 0) + sample.value
        return found

    def __add__(self, other: "Scraped") -> "Scraped":
        return Scraped([*self.families, *other.families])


async def scrape(services: Iterable[Service], *, only: tuple[str, ...] = ()) -> Scraped:
    """Ask each of these services.

    Args:
        services: those.
        only: how the lines begin that are wanted, by default all; a parse of all of them takes long.
    """
    families: list[Metric] = []
    async with aiohttp.ClientSession() as session:
        for service in services:
            async with session.get(metrics_url(service)) as response:
                assert response.status == 200, await response.text()
                lines = (await response.text()).splitlines(keepends=True)
                wanted = "".join(line for line in lines if line.startswith(only or ""))
                families += text_string_to_metric_families(wanted)
    return Scraped(families)

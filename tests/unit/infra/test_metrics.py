"""Metrics are served where a port is set, and cost nothing where none is."""

import aiohttp
from prometheus_client import Counter

from infra.local.ports import LOOPBACK, choose_ports
from infra.metrics import Children, Exposition, exposed_metrics
from infra.settings import Settings


async def test_without_a_port_there_is_nothing_to_count_in() -> None:
    async with exposed_metrics(Settings(), "test") as exposition:
        assert exposition is None


async def test_metrics_are_served_after_what_is_to_be_done_before_and_nothing_else_is() -> None:
    prepared = []

    async def prepare() -> None:
        prepared.append(1)

    port = choose_ports({"metrics": None}, {})["metrics"]
    settings = Settings(metrics_port=port)
    async with exposed_metrics(settings, "test") as exposition, aiohttp.ClientSession() as session:
        assert exposition is not None
        Counter("things_total", "Things.", registry=exposition.registry).inc()
        exposition.before_scrape(prepare)
        url = f"http://{LOOPBACK}:{port}/metrics"
        async with session.get(url) as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = await response.text()
        assert "things_total 1.0" in text
        assert "_created" not in text
        assert prepared == [1]
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with session.get(url, headers=accept) as response:
            assert (await response.text()).endswith("# EOF\n")
        async with session.get(url.removesuffix("metrics")) as response:
            assert response.status == 404


def test_a_child_is_looked_up_once() -> None:
    children = Children(Counter("things_total", "Things.", ["kind"], registry=Exposition("test").registry))
    assert children["a",] is children["a",]
    assert children["a",] is not children["b",]

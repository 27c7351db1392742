"""Metrics are served where a port is set, and cost nothing where none is."""

from unittest.mock import Mock

import aiohttp
from prometheus_client import Counter

from infra.consuming import NotConsumed
from infra.local.ports import LOOPBACK, choose_ports
from infra.metrics import Children, Exposition, exposed_metrics
from infra.readiness import MOST_NAMED, readiness
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


async def test_readiness_is_told_with_what_is_lacking() -> None:
    port = choose_ports({"metrics": None}, {})["metrics"]
    async with (
        exposed_metrics(Settings(metrics_port=port), "test") as exposition,
        aiohttp.ClientSession() as session,
    ):
        assert exposition is not None

        async def told(path: str) -> tuple[int, object]:
            async with session.get(f"http://{LOOPBACK}:{port}/{path}") as response:
                return response.status, await response.json()

        assert await told("healthz") == (200, {"status": "ok"})
        assert await told("readyz") == (503, {"status": "unavailable", "starting": True})
        missing = [NotConsumed("requests", f"requests.bot-{n}", "why") for n in range(MOST_NAMED + 1)]
        consuming = Mock(is_connected=True, not_consumed=missing)
        exposition.tell_readiness(lambda: readiness(consuming))
        status, body = await told("readyz")
        assert isinstance(body, dict)
        assert (status, body["status"], body["not_consumed_count"]) == (503, "unavailable", MOST_NAMED + 1)
        first = {"kind": "requests", "queue": "requests.bot-0", "reason": "why"}
        assert (len(body["not_consumed"]), body["not_consumed"][0]) == (MOST_NAMED, first)
        consuming.not_consumed = []
        everything = {"status": "ok", "rabbitmq": True, "not_consumed": [], "not_consumed_count": 0}
        assert await told("readyz") == (200, everything)
        consuming.is_connected = False
        assert (await told("readyz"))[0] == 503


def test_a_child_is_looked_up_once() -> None:
    children = Children(Counter("things_total", "Things.", ["kind"], registry=Exposition("test").registry))
    assert children["a",] is children["a",]
    assert children["a",] is not children["b",]

"""A real Prometheus: each query of the dashboard has data after a load, and rules fire on real trouble."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.console import Console
from tests.harness import World, eventually
from tests.monitoring.demo import UNPRICED, Demo
from tests.monitoring.prometheus import JOBS, Prometheus

DEPLOY = Path(__file__).parents[2] / "infra/deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/keyway.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
#: What Grafana fills in.
FILLED_IN = {"$__rate_interval": "1m", "$automation": ".*"}


def expression(template: str) -> str:
    for variable, value in FILLED_IN.items():
        template = template.replace(variable, value)
    return template


@pytest.fixture(scope="module")
async def demo(shared: World, console: Console, prometheus: Prometheus) -> Demo:
    """A load that Prometheus has seen growing, and the trouble that came with it."""
    demo = await Demo.set_up(shared, console)
    waves = [f'keyway_requests_total{{automation="{demo.busy}"}}', "keyway_lease_requests_total"]
    for _ in range(2):
        before = [await prometheus.value(f"sum({name})") for name in waves]
        await demo.wave()

        async def is_seen(before: list[float] = before) -> bool:
            return all([await prometheus.value(f"sum({n})") > b for n, b in zip(waves, before, strict=True)])

        await eventually(is_seen, "the load in Prometheus", every_s=0.3)
    await demo.go_wrong()
    return demo


async def test_every_panel_of_the_dashboard_has_data_after_a_load(prometheus: Prometheus, demo: Demo) -> None:
    # A rate is there for as long as its window after the load.
    empty = {(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]}

    async def each_had_data() -> bool:
        queries = sorted(empty)
        answers = await asyncio.gather(*(prometheus.query(expression(query)) for _, query in queries))
        empty.difference_update(query for query, found in zip(queries, answers, strict=True) if found)
        return not empty

    assert len(PANELS) > 30
    try:
        await eventually(each_had_data, "data in every panel", every_s=1)
    except AssertionError:
        pytest.fail("\n".join(["without data:", *map(str, sorted(empty))]))
    (variable,) = DASHBOARD["templating"]["list"]
    metric = re.fullmatch(r"label_values\((\w+), automation\)", variable["definition"])
    assert metric is not None
    name = metric[1]

    async def both_are_listed() -> bool:
        # After a scrape that failed there is no series until the next one.
        return {demo.busy, demo.poor} <= {each.labels["automation"] for each in await prometheus.query(name)}

    await eventually(both_are_listed, "both automations to choose from", every_s=0.5)


async def test_rules_fire_on_real_trouble(prometheus: Prometheus, demo: Demo) -> None:
    expected: list[tuple[str, dict[str, str]]] = [
        ("KeywayKeyError", {"automation": demo.busy, "key": "Refused"}),
        ("KeywayKeyExhausted", {"automation": demo.busy, "key": "Spent"}),
        ("KeywayPoolLow", {"automation": demo.busy}),
        ("KeywayPoolEmpty", {"automation": demo.poor}),
        ("KeywayBudgetSoft", {"automation": demo.poor, "scope": "automation", "window": "day"}),
        ("KeywayBudgetSpent", {"automation": demo.poor, "scope": "automation", "window": "day"}),
        ("KeywayUnknownPrice", {}),
        ("KeywayDeadLetters", {}),
        ("KeywayServiceDown", {"job": "keyway-worker"}),
    ]

    async def missing() -> list[tuple[str, dict[str, str]]]:
        return [(alert, labels) for alert, labels in expected if not await prometheus.fires(alert, **labels)]

    async def all_fire() -> bool:
        return not await missing()

    try:
        await eventually(all_fire, "every alert", every_s=0.5)
    except AssertionError:
        pytest.fail(f"not firing: {await missing()}")
    alone = {("KeywayKeyError", "Refused"), ("KeywayKeyExhausted", "Spent"), ("KeywayPoolLow", "")}
    unpriced = f'keyway_unpriced_attempts_total{{automation="{demo.busy}",model="{UNPRICED}"}}'

    async def just_these() -> bool:
        firing = [alert for alert in await prometheus.firing() if alert.get("automation") == demo.busy]
        kinds = {(alert["alertname"], alert.get("key", "")) for alert in firing}
        return kinds == alone and bool(await prometheus.query(unpriced))

    await eventually(just_these, f"{alone} alone, and {unpriced}", every_s=0.5)


def test_the_jobs_of_the_tests_are_those_of_compose() -> None:
    jobs = re.findall(r"job_name: (\S+)", (DEPLOY / "prometheus/prometheus.yml").read_text())
    assert set(jobs) == {*JOBS, "rabbitmq"}


def test_the_dashboard_and_its_source_agree_on_names() -> None:
    source = (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    (uid,) = re.findall(r"uid: (\S+)", source)
    assert {panel["datasource"]["uid"] for panel in PANELS} == {uid}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    used = set(re.findall(r"keyway_\w+?(?=_bucket|_sum|_count|\b)", json.dumps(PANELS)))
    catalogue = set(re.findall(r"`(keyway_\w+)`", (DEPLOY.parents[1] / "docs/metrics.md").read_text()))
    assert used <= catalogue

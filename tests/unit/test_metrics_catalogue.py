"""docs/metrics.md has every metric that services export, with its type and labels, and no other."""

import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
from prometheus_client import Metric

from infra.consumed_metrics import BatchMetrics, handler_name
from infra.metrics import MOST_MODELS, MOST_OF_AUTOMATION, OTHER, Exposition, ModelNames
from infra.readiness import NotConsumedGauge
from workers.accounting.fleet_metrics import FleetMetrics
from workers.accounting.metrics import LedgerMetrics
from workers.console.metrics import ConsoleMetrics
from workers.generation.metrics import RequestMetrics
from workers.leasing.metrics import LeaseMetrics

CATALOGUE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
#: Name, type and labels of each row.
ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([^|]*)\| [^|]+ \| [^|]+ \|$", re.MULTILINE)


def of_generation(exposition: Exposition) -> None:
    RequestMetrics(exposition).watch(in_hand=lambda: 0, in_flight=lambda: 0)


def of_accounting(exposition: Exposition) -> None:
    LedgerMetrics(exposition)
    FleetMetrics(exposition, AsyncMock())


def of_consuming(exposition: Exposition) -> None:
    exposition.registry.register(NotConsumedGauge(Mock(not_consumed=[], kinds=[]), exposition.service))


SERVICES: list[Callable[[Exposition], object]] = [
    of_generation,
    of_accounting,
    LeaseMetrics,
    ConsoleMetrics,
    BatchMetrics,
    of_consuming,
]


def exported() -> set[tuple[str, str, tuple[str, ...]]]:
    """Name, type and labels of whatever a service registers."""
    found = set()
    for register in SERVICES:
        exposition = Exposition("test")
        register(exposition)
        for collector in list(exposition.registry._collector_to_names):
            described = getattr(collector, "describe", collector.collect)
            for family in described():
                labels = getattr(collector, "_labelnames", ()) or getattr(family, "_labelnames", ())
                found.add((exported_name(family), family.type, tuple(labels)))
    return found


def exported_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_the_catalogue_is_what_is_exported() -> None:
    documented = {
        (name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROW.findall(CATALOGUE)
    }
    assert len(documented) > 60
    assert documented == exported()


def test_no_metric_is_labelled_by_user_or_request() -> None:
    labels = {label for _, _, names in exported() for label in names}
    assert not labels & {"user", "user_id", "request", "request_id"}


def test_models_that_nobody_answered_for_and_those_beyond_the_first_are_told_together() -> None:
    names = ModelNames()
    assert names.label("made-up", answered_for=None) == OTHER
    assert names.label(None, answered_for="bot") == OTHER
    for number in range(MOST_MODELS):
        assert names.label(f"model-{number}", answered_for=f"bot-{number % 2}") == f"model-{number}"
    assert names.label("one-more", answered_for="bot-2") == OTHER
    assert names.label("model-0", answered_for=None) == "model-0"


def test_a_provider_that_makes_models_up_takes_no_label_from_another_automation_s_models() -> None:
    names = ModelNames()
    labels = {names.label(f"made-up-{number}", answered_for="liar") for number in range(1000)}
    assert len(labels - {OTHER}) == MOST_OF_AUTOMATION
    for number in range(MOST_MODELS - MOST_OF_AUTOMATION):
        assert names.label(f"model-{number}", answered_for="honest") == f"model-{number}"


@pytest.mark.parametrize(
    ("exchange", "routing_key", "expected"),
    [
        ("events", "usage.recorded.billing-bot", "events.usage.recorded"),
        ("events", "heartbeat.billing-bot", "events.heartbeat"),
        ("events", "usage.made.up", "events"),
        ("dead", "billing-bot", "dead"),
        ("", "accounting", "default"),
    ],
)
def test_handlers_are_few_whatever_the_routing_key(exchange: str, routing_key: str, expected: str) -> None:
    assert handler_name(exchange, routing_key) == expected


def test_what_is_consumed_is_counted_under_the_names_of_faststream() -> None:
    exposition = Exposition("accounting")
    metrics = BatchMetrics(exposition)
    messages = [metrics.begin("events", f"usage.recorded.bot-{number}", 500) for number in range(3)]
    labels = {"app_name": "accounting", "broker": "rabbitmq", "handler": "events.usage.recorded"}

    def count(name: str, **more: str) -> float | None:
        return exposition.registry.get_sample_value(f"faststream_received_{name}", labels | more)

    assert (count("messages_total"), count("messages_in_process")) == (3, 3)
    assert count("messages_size_bytes_sum") == 1500
    metrics.end(messages[:2])
    assert (count("messages_in_process"), count("processed_messages_total", status="acked")) == (1, 2)
    assert count("processed_messages_duration_seconds_count") == 2

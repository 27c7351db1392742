"""The calculation behind docs/scaling.md."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.capacity import EXAMPLES, MOST_AUTOMATIONS, SHARE, Demand, Measured, examples, main, size

SCALING = (Path(__file__).parents[2] / "docs/scaling.md").read_text()


def test_the_table_of_the_docs_is_what_the_calculation_says() -> None:
    assert examples() in SCALING


def test_the_costs_of_the_docs_are_those_that_are_calculated_with() -> None:
    measured = Measured()
    for cost in (measured.worker_ms, measured.accounting_ms, measured.mongod_ms, measured.rabbitmq_ms):
        assert f"| {cost:g} ms |" in SCALING


@pytest.mark.parametrize("demand", EXAMPLES)
def test_no_part_of_a_cell_is_asked_for_more_than_its_share(demand: Demand) -> None:
    found = size(demand)
    assert found.accounting_share <= SHARE
    assert found.calls_in_flight <= found.workers * demand.max_in_flight * SHARE
    assert demand.automations / found.cells <= MOST_AUTOMATIONS


@pytest.mark.parametrize("demand", EXAMPLES)
def test_the_last_worker_may_be_gone(demand: Demand) -> None:
    found = size(demand)
    assert found.workers >= 2
    cpu_s = demand.requests_per_s / found.cells * demand.attempts * Measured().worker_ms / 1000
    assert cpu_s <= (found.workers - 1) * SHARE


def test_more_of_anything_takes_no_less_of_all() -> None:
    small = Demand(automations=100, requests_per_s=100)
    for more in ({"requests_per_s": 200.0}, {"automations": 200}, {"latency_s": 20.0}, {"ledger_days": 800}):
        before, after = size(small), size(replace(small, **more))
        assert (before.cells, before.workers) <= (after.cells, after.workers)
        assert before.mongo_disk_gb <= after.mongo_disk_gb
        assert before.rabbitmq_gb <= after.rabbitmq_gb


def test_it_prints_what_was_asked_and_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--automations", "50", "--requests-per-s", "10"])
    said = capsys.readouterr().out
    assert "automations                   50" in said
    assert "MongoDB's disk" in said

"""The ledger's rows."""

from datetime import datetime

import pytest
from bson import decode, encode

from contracts.messages import Outcome, UsageRecorded
from tests.builders import NOON, usage_recorded
from workers.accounting.ledger import ledger_id, row_of


def test_a_row_has_every_field_of_its_event() -> None:
    event = usage_recorded(cached_tokens=3, reasoning_tokens=5, error_code="x", tokens_estimated=True)
    row = row_of(event, NOON)
    assert {field: row[field] for field in UsageRecorded.model_fields} == event.model_dump()
    assert row.keys() - UsageRecorded.model_fields.keys() == {"_id", "day", "recorded_at"}
    assert row["recorded_at"] == NOON


def test_a_row_is_found_by_its_event_within_its_automation() -> None:
    assert ledger_id(usage_recorded()) == "billing-bot/req-1:1"
    assert row_of(usage_recorded(), NOON)["_id"] == "billing-bot/req-1:1"
    same_request = [usage_recorded(automation_id=name) for name in ("bot-a", "bot-b")]
    assert len({ledger_id(event) for event in same_request}) == 2


@pytest.mark.parametrize(
    ("occurred_at", "day"),
    [
        ("2026-03-10T00:00:00Z", "2026-03-10"),
        ("2026-03-10T23:59:59.999Z", "2026-03-10"),
        ("2026-03-11T01:30:00+02:00", "2026-03-10"),
        ("2026-03-10T23:30:00-05:00", "2026-03-11"),
    ],
)
def test_a_rows_day_is_the_utc_day_of_the_attempt(occurred_at: str, day: str) -> None:
    row = row_of(usage_recorded(occurred_at=occurred_at), NOON)
    assert row["day"] == day
    assert row["occurred_at"] == datetime.fromisoformat(occurred_at)


@pytest.mark.parametrize("outcome", Outcome)
def test_a_row_is_what_the_database_can_hold(outcome: Outcome) -> None:
    row = row_of(usage_recorded(outcome=outcome, user_id=None, http_status=None), NOON)
    assert type(row["outcome"]) is str
    stored = decode(encode(row))
    assert (stored["outcome"], stored["user_id"], stored["cost_nanousd"]) == (outcome.value, None, 19_050)

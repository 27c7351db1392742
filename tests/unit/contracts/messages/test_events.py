"""The events of exchange `events`, as wire.md lists their fields."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from contracts.messages import (
    BudgetCrossed,
    ConfigChanged,
    Heartbeat,
    KeyStatusChanged,
    UsageRecorded,
    UsageReported,
)

AT = "2026-11-24T10:00:00Z"
TOKENS = {
    "prompt_tokens": 19,
    "completion_tokens": 27,
    "total_tokens": 46,
    "cached_tokens": 3,
    "reasoning_tokens": 5,
}
STATUS_CHANGED: dict[str, Any] = {
    "key_id": "key-1",
    "alias": "Primary",
    "from": "active",
    "to": "exhausted",
    "reason": "the day is spent",
    "until": "2026-11-25T00:00:00Z",
    "actor": "accounting",
    "occurred_at": AT,
}
RECORDED: dict[str, Any] = {
    "event_id": "req-1:1",
    "request_id": "req-1",
    "automation_id": "billing-bot",
    "user_id": "u-42",
    "key_id": "key-1",
    "key_alias": "Primary",
    "path": "/chat/completions",
    "model": "gpt-4o-mini",
    "outcome": "ok",
    "http_status": 200,
    "error_code": None,
    **TOKENS,
    "cost_nanousd": 19050,
    "price_known": True,
    "tokens_estimated": False,
    "usage_problem": None,
    "latency_ms": 803,
    "reserved_tokens": 60,
    "source": "worker",
    "occurred_at": AT,
}
SAMPLES: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (UsageRecorded, RECORDED),
    (
        UsageReported,
        {"lease_id": "l-1", "report_id": "r-1", "model": "gpt-4o-mini", "outcome": "ok", **TOKENS},
    ),
    (Heartbeat, {"version": "1.2.0", "host": "bot-7", "started_at": AT, "in_flight": 3}),
    (KeyStatusChanged, STATUS_CHANGED),
    (
        BudgetCrossed,
        {
            "scope": "automation",
            "subject": "billing-bot",
            "window": "day",
            "threshold_percent": 80,
            "spent_nanousd": 8_000_000_000,
            "limit_nanousd": 10_000_000_000,
        },
    ),
    (
        ConfigChanged,
        {"automation_id": "billing-bot", "what": "key Primary added", "actor": "cli", "occurred_at": AT},
    ),
]


@pytest.mark.parametrize(("model", "sample"), SAMPLES)
def test_a_sample_is_read_and_written_again_unchanged(model: type[BaseModel], sample: dict[str, Any]) -> None:
    event = model.model_validate_json(json.dumps(sample))
    assert json.loads(event.model_dump_json(by_alias=True)) == sample


@pytest.mark.parametrize(("model", "sample"), SAMPLES)
def test_fields_that_a_later_version_adds_are_ignored(model: type[BaseModel], sample: dict[str, Any]) -> None:
    assert model.model_validate(sample | {"later": 1}) == model.model_validate(sample)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cost_nanousd", -1),
        ("cost_nanousd", 0.5),
        ("cost_nanousd", 19050.0),
        ("cost_nanousd", "19050"),
        ("cost_nanousd", True),
        ("total_tokens", -1),
        ("total_tokens", 1.5),
        ("total_tokens", 46.0),
        ("total_tokens", "46"),
        ("total_tokens", True),
        ("latency_ms", -1),
        ("outcome", None),
        ("source", "somewhere"),
        ("automation_id", "Billing Bot"),
        ("occurred_at", "2026-11-24T10:00:00"),
        ("occurred_at", 1_764_000_000),
    ],
)
def test_a_usage_event_that_would_spoil_the_books_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        UsageRecorded.model_validate_json(json.dumps(RECORDED | {field: value}))


@pytest.mark.parametrize("field", ["event_id", "key_id", "cost_nanousd", "price_known", "occurred_at"])
def test_a_usage_event_is_whole(field: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        UsageRecorded.model_validate({name: value for name, value in RECORDED.items() if name != field})


def test_from_is_from_on_the_wire_and_from_underscore_in_code() -> None:
    read = KeyStatusChanged.model_validate(STATUS_CHANGED)
    built = KeyStatusChanged(
        key_id="key-1",
        alias="Primary",
        from_="active",
        to="exhausted",
        reason="the day is spent",
        until=datetime(2026, 11, 25, tzinfo=UTC),
        actor="accounting",
        occurred_at=datetime(2026, 11, 24, 10, tzinfo=UTC),
    )
    assert read == built
    assert read.from_ == "active"


@pytest.mark.parametrize("field", ["from", "to"])
def test_there_are_four_statuses_and_no_other(field: str) -> None:
    for status in ("active", "disabled", "exhausted", "error"):
        KeyStatusChanged.model_validate(STATUS_CHANGED | {field: status})
    with pytest.raises(ValidationError):
        KeyStatusChanged.model_validate(STATUS_CHANGED | {field: "broken"})


@pytest.mark.parametrize("outcome", ["ok", "of a later version"])
def test_a_usage_event_of_a_later_version_is_booked_whatever_its_outcome(outcome: str) -> None:
    recorded = UsageRecorded.model_validate_json(json.dumps(RECORDED | {"outcome": outcome}))
    assert recorded.outcome == outcome
    assert recorded.model_dump(mode="json")["outcome"] == outcome

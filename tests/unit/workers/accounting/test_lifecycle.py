"""What the books say of a key's status."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.mongo import Document
from tests.builders import NOON, key_document, ledger_row
from workers.accounting.lifecycle import is_day_spent, next_status, renewal
from workers.keys.limits import CIRCUIT_FAILURES
from workers.keys.status import StatusChange

MIDNIGHT = datetime(2026, 3, 11, tzinfo=UTC)
AUTH = {"outcome": "auth_failed", "http_status": 401, "error_code": "invalid_api_key"}
QUOTA = {"outcome": "quota_exhausted", "http_status": 429, "error_code": "insufficient_quota"}
HARMLESS = [
    "ok",
    "rate_limited",
    "model_unavailable",
    "rejected",
    "server_error",
    "timeout",
    "connection_error",
    "bad_response",
    "ambiguous",
]


def total(tokens: int, least_reserved: int = 10) -> Document:
    return {"total_tokens": tokens, "least_reserved_tokens": least_reserved}


def decide(
    *rows: dict[str, Any], today: Document | None = None, daily: int | None = None, **key: Any
) -> StatusChange | None:
    """Decide for a key that was last changed an hour ago, on rows of one minute ago."""
    limits = {"tokens_per_day": daily}
    document = key_document(limits=limits, **{"status_since": NOON - timedelta(hours=1), **key})
    calm = {"occurred_at": NOON - timedelta(minutes=1)}
    return next_status(document, [ledger_row(**(calm | row)) for row in rows], today, NOON)


@pytest.mark.parametrize("outcome", HARMLESS)
def test_a_key_stays_active_whatever_else_goes_wrong(outcome: str) -> None:
    assert decide({"outcome": outcome}) is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (AUTH, "the provider refuses the key: 401 invalid_api_key"),
        (AUTH | {"http_status": 403, "error_code": None}, "the provider refuses the key: 403 no code"),
        (
            AUTH | {"http_status": None, "error_code": "wrong_base_url"},
            "no call can be made with the key: wrong_base_url",
        ),
    ],
)
@pytest.mark.parametrize("status", ["active", "exhausted"])
def test_a_key_that_the_provider_refuses_is_in_error_with_the_reason(
    row: dict[str, Any], reason: str, status: str
) -> None:
    assert decide({}, row, {}, status=status) == StatusChange(
        "error", reason, None, "accounting", NOON, "refused"
    )


def test_the_last_refusal_is_the_reason() -> None:
    change = decide(AUTH, AUTH | {"http_status": 403, "error_code": "account_deactivated"})
    assert change is not None
    assert change.reason.endswith("403 account_deactivated")


@pytest.mark.parametrize("row", [AUTH, QUOTA])
def test_a_refusal_from_before_the_keys_last_change_says_nothing(row: dict[str, Any]) -> None:
    changed = NOON - timedelta(minutes=1)
    assert decide(row | {"occurred_at": changed - timedelta(milliseconds=1)}, status_since=changed) is None
    assert decide(row | {"occurred_at": changed}, status_since=changed) is not None


@pytest.mark.parametrize("status", ["disabled", "error"])
@pytest.mark.parametrize("row", [AUTH, QUOTA, {}])
def test_what_a_person_or_an_error_stopped_stays_stopped(status: str, row: dict[str, Any]) -> None:
    assert decide(row, today=total(1_000_000), daily=100, status=status) is None


def test_a_key_without_quota_is_exhausted_until_a_probe_brings_it_back() -> None:
    change = decide({}, QUOTA)
    assert change is not None
    assert (change.to, change.until, change.cause) == ("exhausted", None, "quota")
    assert "quota" in change.reason


@pytest.mark.parametrize("outcome", ["server_error", "timeout", "connection_error", "bad_response"])
def test_a_key_whose_calls_fail_in_a_row_is_in_error_and_says_how_many_and_how(outcome: str) -> None:
    failed = {"outcome": outcome, "http_status": 500}
    assert decide(failed, health={"failures": CIRCUIT_FAILURES - 1}) is None
    change = decide({}, failed, health={"failures": CIRCUIT_FAILURES})
    assert change is not None
    assert (change.to, change.cause) == ("error", "failing")
    assert change.reason == f"5 calls in a row failed; the last: {outcome} 500"


@pytest.mark.parametrize("outcome", ["ok", "rejected", "rate_limited", "model_unavailable", "ambiguous"])
def test_what_is_not_the_keys_failure_does_not_stop_it_however_many_failed_before(outcome: str) -> None:
    assert decide({"outcome": outcome}, health={"failures": CIRCUIT_FAILURES}) is None


def test_a_failure_from_before_the_key_came_back_does_not_stop_it_again() -> None:
    old = {"outcome": "server_error", "occurred_at": NOON - timedelta(hours=2)}
    assert decide(old, health={"failures": CIRCUIT_FAILURES}) is None


def test_a_refused_key_is_in_error_even_when_its_quota_is_spent() -> None:
    change = decide(AUTH, QUOTA)
    assert change is not None
    assert change.to == "error"


def test_a_key_whose_day_is_spent_is_exhausted_until_utc_midnight() -> None:
    assert decide({}, today=total(100), daily=100) == StatusChange(
        "exhausted", "100 of 100 daily tokens are used", MIDNIGHT, "accounting", NOON, "day"
    )


@pytest.mark.parametrize(
    ("today", "daily"),
    [(total(1_000_000), None), (None, 100), (total(10), 100)],
)
def test_a_key_with_tokens_left_stays_active(today: Document | None, daily: int | None) -> None:
    assert decide({}, today=today, daily=daily) is None


@pytest.mark.parametrize("row", [QUOTA, {}])
def test_a_key_that_is_exhausted_already_is_not_exhausted_again(row: dict[str, Any]) -> None:
    assert decide(row, today=total(100), daily=100, status="exhausted") is None


@pytest.mark.parametrize(
    ("limit", "used", "least_reserved", "spent"),
    [
        (100, 0, 10, False),
        (100, 90, 10, False),
        (100, 91, 10, True),
        (100, 100, 0, True),
        (100, 100, 10, True),
        (100, 130, 10, True),
        (100, 99, 0, False),
        # Every call is cut to the limit: one that asks for more is still admitted on an empty day.
        (100, 0, 5000, False),
        (100, 1, 5000, True),
    ],
)
def test_a_day_is_spent_when_not_even_the_smallest_call_fits(
    limit: int, used: int, least_reserved: int, spent: bool
) -> None:
    assert is_day_spent(limit, total(used, least_reserved)) is spent


def test_an_exhaustion_ends_without_another_end() -> None:
    change = renewal(NOON)
    assert (change.to, change.until, change.actor, change.at) == ("active", None, "accounting", NOON)
    assert change.reason


@pytest.mark.parametrize("row", [AUTH, QUOTA, {"outcome": "timeout"}])
def test_what_is_reported_of_a_leased_key_counts_in_its_day_alone(row: dict[str, Any]) -> None:
    key: dict[str, Any] = {"health": {"failures": CIRCUIT_FAILURES}}
    assert decide(row | {"source": "lease"}, **key) is None
    change = decide(row | {"source": "lease"}, today=total(100), daily=100)
    assert change is not None
    assert (change.to, change.cause) == ("exhausted", "day")

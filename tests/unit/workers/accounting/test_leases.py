"""What is booked of a leased key, and what is not."""

from datetime import timedelta
from typing import Any

import pytest

from contracts.messages import Outcome, UsageRecorded, UsageReported
from infra.mongo import Document
from tests.builders import NOON, ledger_row
from workers.accounting.leases import (
    MOST_REPORTS,
    MOST_TOKENS,
    Refused,
    Report,
    Unreported,
    after,
    booked,
)
from workers.keys.leases import KEPT


def lease(**changes: Any) -> Document:
    return {
        "_id": "lease-1",
        "automation_id": "billing-bot",
        "key_id": "key-1",
        "key_alias": "Primary",
        "model": "gpt-4o-mini",
        "tokens": 700,
        "status": "open",
        "reports": 0,
        "reported_tokens": 0,
        "granted_at": NOON,
        "expires_at": NOON + timedelta(minutes=5),
    } | changes


def report(automation_id: str = "billing-bot", **changes: Any) -> Report:
    said = {"lease_id": "lease-1", "report_id": "r-1", "model": "gpt-4o-mini", "outcome": "ok"}
    return Report(automation_id, UsageReported.model_validate(said | changes))


def test_a_report_is_booked_on_its_lease_and_at_the_time_of_its_grant() -> None:
    event = booked(report(prompt_tokens=19, completion_tokens=27, total_tokens=46), lease())
    assert isinstance(event, UsageRecorded)
    assert (event.event_id, event.request_id, event.source) == ("lease-1:r-1", "lease-1", "lease")
    assert (event.key_id, event.key_alias, event.automation_id) == ("key-1", "Primary", "billing-bot")
    assert (event.prompt_tokens, event.completion_tokens, event.total_tokens) == (19, 27, 46)
    assert (event.occurred_at, event.reserved_tokens, event.tokens_estimated) == (NOON, 700, False)
    assert event.price_known
    assert event.cost_nanousd == 19_050


def test_a_total_that_was_left_out_is_made_good() -> None:
    event = booked(report(prompt_tokens=19, completion_tokens=27), lease())
    assert isinstance(event, UsageRecorded)
    assert event.total_tokens == 46


@pytest.mark.parametrize(
    ("entry", "found", "reason"),
    [
        (report(), None, "no such lease"),
        (report("another-bot"), lease(), "another-bot has no such lease"),
        (report(), lease(status="charged"), "too late"),
        (report(), lease(reports=MOST_REPORTS, status="reported"), "has had its"),
        (report(report_id=""), lease(), "report_id and model"),
        (report(model="m" * 300), lease(), "report_id and model"),
        (report(reasoning_tokens=MOST_TOKENS + 1), lease(), "at most"),
        (Unreported("lease-1"), None, "gone"),
        (Unreported("lease-1"), lease(status="reported"), "ended"),
        (Unreported("lease-1"), lease(status="charged"), "ended"),
        (Unreported("lease-1"), lease(status="closed"), "ended"),
    ],
)
def test_what_is_not_booked_says_why(entry: Any, found: Document | None, reason: str) -> None:
    refused = booked(entry, found)
    assert isinstance(refused, Refused)
    assert reason in refused.reason


@pytest.mark.parametrize("status", ["open", "revoked", "reported", "closed"])
def test_a_report_counts_whatever_else_became_of_the_lease(status: str) -> None:
    assert isinstance(booked(report(), lease(status=status)), UsageRecorded)


@pytest.mark.parametrize(
    ("model", "split"), [("gpt-4o-mini", (0, 700)), ("text-embedding-3-small", (700, 0)), (None, (0, 700))]
)
@pytest.mark.parametrize("status", ["open", "revoked"])
def test_an_unreported_lease_is_charged_at_its_estimate_as_what_costs_more(
    model: str | None, split: tuple[int, int], status: str
) -> None:
    event = booked(Unreported("lease-1"), lease(model=model, status=status))
    assert isinstance(event, UsageRecorded)
    assert (event.event_id, event.outcome) == ("lease-1:unreported", Outcome.AMBIGUOUS)
    assert (event.prompt_tokens, event.completion_tokens) == split
    assert (event.total_tokens, event.tokens_estimated) == (700, True)
    assert event.price_known is (model is not None)
    assert (event.cost_nanousd > 0) is (model is not None)


def test_a_lease_remembers_its_reports_or_that_it_was_charged() -> None:
    row = ledger_row(source="lease", total_tokens=46)
    forget_at = NOON + timedelta(minutes=5) + KEPT
    assert after(lease(), [row, row], []) == {
        "$set": {"status": "reported", "forget_at": forget_at},
        "$inc": {"reports": 2, "reported_tokens": 92},
    }
    assert after(lease(), [row], [ledger_row(total_tokens=6)])["$inc"] == {
        "reports": 0,
        "reported_tokens": 40,
    }
    charged = ledger_row(source="lease", tokens_estimated=True)
    assert after(lease(), [charged], []) == {
        "$set": {"status": "charged", "forget_at": forget_at},
        "$inc": {"reports": 0, "reported_tokens": 0},
    }

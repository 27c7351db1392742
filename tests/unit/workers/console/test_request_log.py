"""Which row of the ledger stands for its request, and what a request is summed up as."""

from datetime import UTC, datetime, timedelta

from infra.mongo import Document
from workers.console.request_log import RequestFilter, is_newest
from workers.console.request_summary import Status, summarise

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def row(number: int, outcome: str) -> Document:
    return {
        "_id": f"bot/r:{number}", "automation_id": "bot", "request_id": "r", "outcome": outcome,
        "user_id": None, "occurred_at": NOON + timedelta(seconds=number),
        "model": "m", "path": "/p", "key_alias": f"key {number}",
        "total_tokens": number, "cost_nanousd": 10 * number, "latency_ms": 100,
    }  # fmt: skip


ROWS = [row(1, "rate_limited"), row(2, "server_error"), row(3, "ok")]


def standing(wanted: RequestFilter) -> list[int]:
    return [number for number, each in enumerate(ROWS, start=1) if is_newest(each, ROWS, wanted)]


def test_a_request_is_listed_once_by_its_newest_row_that_is_asked_for() -> None:
    assert standing(RequestFilter()) == [3]
    assert standing(RequestFilter(outcome="rate_limited")) == [1]
    assert standing(RequestFilter(status=Status.FAILED)) == [2]
    assert standing(RequestFilter(status=Status.SUCCEEDED)) == [3]


def test_a_request_is_as_good_as_its_last_word() -> None:
    summary = summarise(ROWS, None, None)
    assert (summary.status, summary.code, summary.attempts) == (Status.SUCCEEDED, None, 3)
    assert (summary.total_tokens, summary.cost_nanousd, summary.latency_ms) == (6, 60, 300)
    assert (summary.at, summary.key_alias) == (NOON + timedelta(seconds=3), "key 3")
    assert summarise(ROWS[:2], None, None).status is Status.FAILED


def test_the_journal_knows_better_why_a_request_failed() -> None:
    entry = {"automation_id": "bot", "request_id": "r", "status": "no_usable_key", "finished_at": NOON}
    summary = summarise(ROWS[:1], entry, {"total_ms": 5})
    assert (summary.status, summary.code, summary.timings) == (
        Status.FAILED,
        "no_usable_key",
        {"total_ms": 5},
    )


def test_a_request_under_way_says_with_which_key() -> None:
    entry = {
        "automation_id": "bot", "request_id": "r", "status": "running", "created_at": NOON,
        "call": {"key_alias": "Primary"},
    }  # fmt: skip
    summary = summarise([], entry, None)
    assert (summary.status, summary.at, summary.key_alias) == (Status.RUNNING, NOON, "Primary")

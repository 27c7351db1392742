"""The judge finds each fault that it is there for, and nothing in a run without one."""

from typing import Any

import pytest

from contracts.messages import GenerationResult, Timings, Usage
from tests.chaos.judge import judge


def answer(request_id: str = "r-1", **changes: Any) -> GenerationResult:
    fields: dict[str, Any] = {
        "request_id": request_id,
        "automation_id": "bot",
        "status": "succeeded",
        "response": {"id": "chatcmpl-1"},
        "error": None,
        "usage": Usage(),
        "cost_nanousd": 0,
        "model": "gpt-4o-mini",
        "key_alias": "Primary",
        "attempts": [],
        "replayed": False,
        "timings": Timings(queued_ms=0, waited_ms=0, upstream_ms=1, total_ms=1),
        **changes,
    }
    return GenerationResult.model_validate(fields)


def failure(code: str) -> GenerationResult:
    error = {"code": code, "message": "no", "retryable": True}
    return answer(status="failed", response=None, error=error)


def call(request_id: str = "r-1", tokens: int = 5, http_status: int = 200) -> dict[str, Any]:
    return {
        "client_request_id": request_id,
        "path": "/chat/completions",
        "total_tokens": tokens,
        "http_status": http_status,
    }


def row(number: int = 1, request_id: str = "r-1", outcome: str = "ok", tokens: int = 5) -> dict[str, Any]:
    return {
        "_id": f"bot/{request_id}:{number}",
        "request_id": request_id,
        "outcome": outcome,
        "total_tokens": tokens,
    }


REPEAT = answer(replayed=True)
GUESS = row(2, outcome="ambiguous", tokens=9)
REFUSED_CALL = call(tokens=0, http_status=429)
REFUSED_ROW = row(outcome="rate_limited", tokens=0)
PROBE = {**call("probe"), "path": "/models"}


@pytest.mark.parametrize(
    ("answers", "calls", "rows"),
    [
        ([answer()], [call()], [row()]),
        ([answer(), REPEAT, REPEAT], [call()], [row()]),
        ([REPEAT], [call()], [row()]),
        ([answer()], [call(), call()], [row(), GUESS]),
        ([answer()], [call()], [row(), GUESS]),
        ([answer()], [call(), PROBE], [row()]),
        ([answer()], [REFUSED_CALL, call()], [REFUSED_ROW, row(2)]),
    ],
    ids=["plain", "repeats", "first-lost-on-its-way", "called-again", "never-called", "probe", "failed-over"],
)
def test_a_run_that_kept_its_promises_passes(
    answers: list[GenerationResult], calls: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    judge(["r-1"], answers, calls, rows).assert_kept()


@pytest.mark.parametrize(
    ("answers", "calls", "rows", "problem"),
    [
        ([], [call()], [row()], "no answer"),
        ([answer(), answer()], [call()], [row()], "2 answers that do not say"),
        ([answer(), answer(response={}, replayed=True)], [call()], [row()], "differ"),
        ([failure("internal")], [call()], [row()], "failed: internal"),
        ([answer()], [call(), call()], [row()], "2 calls, but 1 rows"),
        ([answer()], [call(), call()], [row(), row(2)], "called 2 times, 0 of them ambiguous"),
        ([answer()], [call()], [row(), row(2)], "2 rows in the ledger, 0 of them ambiguous, of 1 calls"),
        ([answer()], [call()], [], "1 calls, but 0 rows"),
        ([answer()], [], [row()], "1 rows in the ledger, 0 of them ambiguous, of 0 calls"),
        ([answer()], [call()], [row(tokens=6)], "5 tokens at the provider, 6 in the ledger"),
        ([answer()], [call()], [row(outcome="server_error")], "without fault"),
        ([answer()], [REFUSED_CALL, call()], [row(2)], "2 calls, but 1 rows"),
        ([answer()], [REFUSED_CALL, call()], [REFUSED_ROW, REFUSED_ROW, row(2)], "there twice"),
        ([answer()], [call(), call()], [row(), row()], "there twice"),
        ([answer(), answer("r-2")], [call()], [row()], "r-2: answered, though nobody asked"),
        ([answer()], [call(), call("r-2")], [row()], "r-2: called, though nobody asked"),
        ([answer()], [call()], [row(), row(request_id="r-2")], "r-2: booked, though nobody asked"),
    ],
)
def test_a_broken_promise_is_named(
    answers: list[GenerationResult], calls: list[dict[str, Any]], rows: list[dict[str, Any]], problem: str
) -> None:
    verdict = judge(["r-1"], answers, calls, rows)
    assert any(problem in found for found in verdict.problems), verdict.problems
    with pytest.raises(AssertionError, match="r-"):
        verdict.assert_kept()


def test_a_second_call_is_no_fault_where_the_first_was_reported_as_ambiguous_and_told_of_after_all() -> None:
    verdict = judge(["r-1"], [answer()], [call(), call()], [row(), row(2)], {"r-1": 1})
    verdict.assert_kept()
    assert verdict.cleared_up == 1
    thrice = judge(["r-1"], [answer()], [call()] * 3, [row(), row(2), row(3)], {"r-1": 1})
    assert thrice.problems == ("r-1: called 3 times, 1 of them ambiguous",)


def test_the_figures_count_what_happened() -> None:
    answers = [answer(), REPEAT]
    verdict = judge(["r-1", "r-2"], answers, [call(), call()], [row(), GUESS])
    assert verdict.figures() == {
        "requests": 2,
        "replies": 2,
        "repeats": 1,
        "calls": 2,
        "called_again": 1,
        "rows": 2,
        "ambiguous": 1,
        "cleared_up": 0,
        "lost": 1,
        "problems": 1,
    }

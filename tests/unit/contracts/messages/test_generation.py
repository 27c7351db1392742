"""Requests, results and chunks, held against the samples of wire.md."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.errors import ErrorCode
from contracts.messages import GenerationChunk, GenerationRequest, GenerationResult, Outcome, Path

REQUEST: dict[str, Any] = {
    "path": "/chat/completions",
    "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]},
    "user_id": "u-42",
    "deadline": "2026-11-24T10:00:00Z",
    "metadata": {"campaign": "spring"},
}
RESULT: dict[str, Any] = {
    "request_id": "req-1",
    "automation_id": "billing-bot",
    "status": "succeeded",
    "response": {"id": "chatcmpl-1"},
    "error": None,
    "usage": {
        "prompt_tokens": 19,
        "completion_tokens": 27,
        "total_tokens": 46,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
    },
    "usage_problem": None,
    "cost_nanousd": 19050,
    "model": "gpt-4o-mini-2024-07-18",
    "key_alias": "Primary",
    "attempts": [
        {"key_alias": "Backup", "outcome": "rate_limited", "http_status": 429, "latency_ms": 41},
        {"key_alias": "Primary", "outcome": "ok", "http_status": 200, "latency_ms": 803},
    ],
    "timings": {"queued_ms": 12, "waited_ms": 0, "upstream_ms": 844, "total_ms": 859},
    "replayed": False,
}
ERROR: dict[str, Any] = {
    "code": "keys_exhausted",
    "message": "every key is spent",
    "retryable": True,
    "retry_at": "2026-11-25T00:00:00Z",
    "provider": {"error": {"code": "insufficient_quota"}},
    "param": "request_id",
}


def read_request(**changes: Any) -> GenerationRequest:
    return GenerationRequest.model_validate_json(json.dumps(REQUEST | changes))


def read_result(**changes: Any) -> GenerationResult:
    return GenerationResult.model_validate_json(json.dumps(RESULT | changes))


def test_the_sample_request_is_read() -> None:
    request = read_request()
    assert request.path is Path.CHAT_COMPLETIONS
    assert request.body == REQUEST["body"]
    assert request.user_id == "u-42"
    assert request.deadline == datetime(2026, 11, 24, 10, tzinfo=UTC)
    assert request.metadata == {"campaign": "spring"}


def test_a_request_needs_no_more_than_path_and_body() -> None:
    request = GenerationRequest.model_validate_json(b'{"path": "/embeddings", "body": {}}')
    assert (request.user_id, request.deadline, request.metadata) == (None, None, {})


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/responses", "/embeddings", "/moderations", "/images/generations"]
)
def test_these_paths_may_be_asked_for(path: str) -> None:
    assert read_request(path=path).path == path


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/models"},
        {"path": "chat/completions"},
        {"path": "/chat/completions/../../models"},
        {"path": None},
        {"body": "hello"},
        {"body": [1]},
        {"body": None},
        {"user_id": ""},
        {"user_id": "u" * 257},
        {"user_id": 42},
        {"metadata": "spring"},
        {"deadline": "tomorrow"},
        {"deadline": "2026-11-24"},
        {"deadline": "2026-11-24T10:00:00"},
        {"deadline": 1_764_000_000},
        {"deadline": 1_764_000_000.5},
        {"deadline": "1764000000"},
        {"automation_id": "billing-bot"},
        {"Deadline": "2026-11-24T10:00:00Z"},
    ],
    ids=str,
)
def test_a_request_that_breaks_the_contract_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read_request(**changes)


@pytest.mark.parametrize("field", ["path", "body"])
def test_a_request_without_path_or_body_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        GenerationRequest.model_validate({name: value for name, value in REQUEST.items() if name != field})


def test_unknown_fields_of_the_body_are_the_providers_affair() -> None:
    assert read_request(body={"brand_new": {"deep": [1]}}).body == {"brand_new": {"deep": [1]}}


def test_a_deadline_of_another_zone_is_the_same_moment() -> None:
    assert read_request(deadline="2026-11-24T12:00:00+02:00").deadline == read_request().deadline


def test_times_are_written_in_utc_as_rfc_3339_has_them() -> None:
    assert '"deadline":"2026-11-24T10:00:00Z"' in read_request().model_dump_json()


def test_a_message_can_not_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read_request().user_id = "u-43"  # type: ignore[misc]


def test_the_sample_result_is_read_and_written_again_unchanged() -> None:
    assert json.loads(read_result().model_dump_json()) == RESULT


def test_a_failed_result_is_read_and_written_again_unchanged() -> None:
    failed = {"status": "failed", "response": None, "error": ERROR, "model": None, "key_alias": None}
    assert json.loads(read_result(**failed).model_dump_json()) == RESULT | failed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cost_nanousd", -1),
        ("cost_nanousd", 1.5),
        ("cost_nanousd", 19050.0),
        ("cost_nanousd", "19050"),
        ("cost_nanousd", True),
        ("cost_nanousd", None),
        ("request_id", ""),
        ("request_id", "r" * 129),
        ("automation_id", "Billing Bot"),
        ("status", "done"),
        ("usage", {"prompt_tokens": -1}),
        ("attempts", [{"key_alias": "Primary", "outcome": None, "latency_ms": 1}]),
        ("timings", RESULT["timings"] | {"queued_ms": -1}),
        ("error", ERROR | {"code": 500}),
        ("error", ERROR | {"retry_at": "2026-11-25T00:00:00"}),
    ],
)
def test_a_result_that_breaks_the_contract_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        read_result(**{field: value})


def test_fields_that_a_later_version_adds_to_a_result_are_ignored() -> None:
    later = RESULT["usage"] | {"audio_tokens": 3}
    assert read_result(region="eu", usage=later) == read_result()


def test_the_outcomes_are_words_that_the_ledger_may_hold() -> None:
    assert [str(outcome) for outcome in Outcome] == [outcome.name.lower() for outcome in Outcome]


def test_a_chunk_is_no_restart_unless_it_says_so() -> None:
    chunk = GenerationChunk.model_validate_json(b'{"request_id": "req-1", "index": 0, "data": {"a": 1}}')
    assert (chunk.index, chunk.data, chunk.restarted) == (0, {"a": 1}, False)
    with pytest.raises(ValidationError):
        GenerationChunk.model_validate_json(b'{"request_id": "req-1", "index": -1, "data": {}}')


def test_a_result_of_a_later_version_is_read_with_its_own_code_and_outcomes() -> None:
    attempts = [{"key_alias": "Primary", "outcome": "of a later version", "latency_ms": 1}]
    later = {**RESULT, "attempts": attempts, "error": ERROR | {"code": "of a later version"}}
    result = GenerationResult.model_validate_json(json.dumps(later))
    assert result.error is not None
    assert result.error.code == "of a later version"
    assert result.attempts[0].outcome == "of a later version"


def test_a_code_and_an_outcome_that_are_known_are_members() -> None:
    attempts = [{"key_alias": "Primary", "outcome": "ok", "latency_ms": 1}]
    result = GenerationResult.model_validate_json(json.dumps(RESULT | {"attempts": attempts, "error": ERROR}))
    assert result.error is not None
    assert isinstance(result.error.code, ErrorCode)
    assert result.attempts[0].outcome is Outcome.OK

"""OpenAI's HTTP and the queue's messages: what becomes of what."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.errors import ERROR_CLASSES, ErrorCode, GenerationError
from contracts.messages import Attempt, GenerationResult, Outcome, Path, ResultError, Timings, Usage
from contracts.openai_http import (
    DEFAULT_TIMEOUT_S,
    LONGEST_TIMEOUT_S,
    STATUSES,
    Call,
    HttpAnswer,
    end,
    event,
    failed,
    failed_event,
    read_call,
    succeeded,
    without_chunks,
)

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
SAID = {"error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}}


def read(body: Any = HELLO, **changes: Any) -> Call | HttpAnswer:
    asked: dict[str, Any] = {
        "method": "POST",
        "url_path": "/v1/chat/completions",
        "query": b"",
        "headers": {},
        "content": body if isinstance(body, bytes) else json.dumps(body).encode(),
        "read_timeout_s": 600.0,
        **changes,
    }
    return read_call(**asked)


def called(body: Any = HELLO, **changes: Any) -> Call:
    call = read(body, **changes)
    assert isinstance(call, Call)
    return call


def refused(body: Any = HELLO, **changes: Any) -> tuple[int, dict[str, Any]]:
    answer = read(body, **changes)
    assert isinstance(answer, HttpAnswer)
    assert answer.headers["x-should-retry"] == "false"
    error: dict[str, Any] = json.loads(answer.content)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return answer.status, error


def result(**changes: Any) -> GenerationResult:
    fields: dict[str, Any] = {
        "request_id": "req-1",
        "automation_id": "billing-bot",
        "status": "succeeded",
        "response": {"id": "chatcmpl-1"},
        "error": None,
        "usage": Usage(),
        "cost_nanousd": 19050,
        "model": "gpt-4o-mini",
        "key_alias": "Primary",
        "attempts": [Attempt(key_alias="Primary", outcome=Outcome.OK, http_status=200, latency_ms=8)],
        "timings": Timings(queued_ms=0, waited_ms=0, upstream_ms=8, total_ms=9),
        "replayed": False,
    }
    return GenerationResult.model_validate(fields | changes)


def failure(
    code: ErrorCode,
    *attempts: tuple[Outcome, int | None],
    provider: dict[str, Any] | None = None,
    retry_at: datetime | None = None,
    param: str | None = None,
) -> GenerationError:
    error = ResultError(
        code=code,
        message="it failed",
        retryable=code.retryable,
        retry_at=retry_at,
        provider=provider,
        param=param,
    )
    tried = [
        Attempt(key_alias="Primary", outcome=outcome, http_status=status, latency_ms=8)
        for outcome, status in attempts
    ]
    whole = result(status="failed", response=None, error=error, attempts=tried, key_alias=None)
    return ERROR_CLASSES[code](error.message, retry_at=retry_at, result=whole)


@pytest.mark.parametrize("path", Path)
@pytest.mark.parametrize("base", ["", "/v1", "/openai/deployments/gpt"])
def test_an_endpoint_is_known_by_what_comes_after_the_base(base: str, path: Path) -> None:
    assert called(url_path=f"{base}{path}").path is path


@pytest.mark.parametrize(
    ("method", "url_path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/chatcmpl-1"),
        ("POST", "/v1/responses/resp-1/cancel"),
        ("POST", "/v1/audio/transcriptions"),
        ("POST", "/v1/images/edits"),
    ],
)
def test_any_other_endpoint_is_not_found_and_the_error_says_what_is_served(
    method: str, url_path: str
) -> None:
    status, error = refused(method=method, url_path=url_path)
    assert status == 404
    assert error["code"] == "not_served"
    assert f"not {method} {url_path}" in error["message"]
    assert all(path in error["message"] for path in Path)


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (415, {"headers": {"content-type": "multipart/form-data; boundary=x"}}),
        (400, {"body": b"--x\r\n"}),
        (400, {"body": b"\xff"}),
        (400, {"body": b""}),
        (400, {"body": [1]}),
        (400, {"query": b"api-version=1"}),
        (400, {"headers": {"idempotency-key": "i" * 129}}),
        (400, {"headers": {"x-keyway-user": ""}}),
        (400, {"headers": {"x-keyway-user": "u" * 257}}),
    ],
)
def test_what_can_not_be_published_is_refused_before_it_is(status: int, changes: dict[str, Any]) -> None:
    assert refused(**changes)[0] == status
    assert refused(**changes)[1]["code"] == "invalid_request"


def test_the_body_goes_on_as_it_is() -> None:
    body = {**HELLO, "user": "u-1", "metadata": {"a": "b"}, "seed": 2**70, "temperature": 0.1, "odd": None}
    assert called(body).body == body


def test_the_read_timeout_becomes_the_deadline_within_bounds() -> None:
    assert called(read_timeout_s=2.5).timeout_s == 2.5
    assert called(read_timeout_s=None).timeout_s == DEFAULT_TIMEOUT_S
    assert called(read_timeout_s=1e9).timeout_s == LONGEST_TIMEOUT_S


def test_the_request_id_is_the_idempotency_key_before_the_clients_own_id() -> None:
    assert called().request_id is None
    own = {"x-client-request-id": "own"}
    assert called(headers=own).request_id == "own"
    assert called(headers={**own, "idempotency-key": "key"}).request_id == "key"


@pytest.mark.parametrize(
    ("headers", "fields", "user"),
    [
        ({}, {}, None),
        ({}, {"user": "u-1"}, "u-1"),
        ({}, {"safety_identifier": "s-1"}, "s-1"),
        ({}, {"user": 7, "safety_identifier": "s-1"}, "s-1"),
        ({}, {"user": "", "safety_identifier": "s" * 257}, None),
        ({"x-keyway-user": "h-1"}, {"user": "u-1"}, "h-1"),
    ],
)
def test_usage_is_booked_on_the_headers_user_or_else_the_bodys(
    headers: dict[str, str], fields: dict[str, Any], user: str | None
) -> None:
    assert called({**HELLO, **fields}, headers=headers).user == user


@pytest.mark.parametrize(
    ("fields", "is_stream"), [({}, False), ({"stream": False}, False), ({"stream": True}, True)]
)
def test_chunks_are_asked_for_where_the_body_says_so(fields: dict[str, Any], is_stream: bool) -> None:
    assert called({**HELLO, **fields}).is_stream is is_stream


def test_a_success_is_the_providers_json_with_what_keyway_knows_as_headers() -> None:
    response = {"id": "chatcmpl-1", "text": "Grüße \u2028 \ud83d", "huge": 2**70, "share": 0.1, "none": None}
    answer = succeeded(result(response=response, key_alias="Schlüssel 1%", request_id="req 1\n"))
    assert answer.status == 200
    assert json.loads(answer.content) == response
    assert answer.headers == {
        "content-type": "application/json",
        "x-request-id": "req 1%0A",
        "x-keyway-attempts": "1",
        "x-keyway-cost-nanousd": "19050",
        "x-keyway-total-ms": "9",
        "x-keyway-replayed": "false",
        "x-keyway-key-alias": "Schl%C3%BCssel 1%25",
    }


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.REJECTED, 400), (Outcome.REJECTED, 409), (Outcome.MODEL_UNAVAILABLE, 404)],
)
def test_the_providers_refusal_has_its_status_and_its_body(outcome: Outcome, status: int) -> None:
    attempts = [(Outcome.SERVER_ERROR, 500), (outcome, status)]
    answer = failed(failure(ErrorCode.PROVIDER_REJECTED, *attempts, provider=SAID), NOW)
    assert answer.status == status
    assert json.loads(answer.content) == SAID
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-keyway-error-code"] == "provider_rejected"


def test_a_refusal_without_a_call_is_a_model_that_is_not_found() -> None:
    answer = failed(failure(ErrorCode.PROVIDER_REJECTED), NOW)
    assert answer.status == 404
    assert json.loads(answer.content)["error"]["code"] == "model_not_found"
    assert answer.headers["x-keyway-error-code"] == "provider_rejected"


@pytest.mark.parametrize(
    ("attempt", "provider", "status"),
    [
        ((Outcome.SERVER_ERROR, 502), SAID, 502),
        ((Outcome.SERVER_ERROR, 502), None, 502),
        ((Outcome.BAD_RESPONSE, 200), None, 503),
        ((Outcome.TIMEOUT, None), None, 503),
    ],
)
def test_a_provider_that_is_down_has_its_own_status_where_it_gave_one(
    attempt: tuple[Outcome, int | None], provider: dict[str, Any] | None, status: int
) -> None:
    answer = failed(failure(ErrorCode.PROVIDER_UNAVAILABLE, attempt, provider=provider), NOW)
    assert answer.status == status
    said = json.loads(answer.content)
    assert said == provider if provider else said["error"]["code"] == "provider_unavailable"


@pytest.mark.parametrize(
    "code", sorted(set(ErrorCode) - {ErrorCode.PROVIDER_REJECTED, ErrorCode.PROVIDER_UNAVAILABLE})
)
def test_keyways_own_errors_look_like_openais_with_keyways_code(code: ErrorCode) -> None:
    answer = failed(failure(code, (Outcome.QUOTA_EXHAUSTED, 429), provider=SAID), NOW)
    assert answer.status == STATUSES[code]
    error = json.loads(answer.content)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["message"], error["code"]) == ("it failed", code)
    assert answer.headers["x-keyway-error-code"] == code
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize(
    ("code", "param", "status"),
    [
        (ErrorCode.INVALID_REQUEST, "request_id", 409),
        (ErrorCode.INVALID_REQUEST, "body.model", 400),
        (ErrorCode.INVALID_REQUEST, None, 400),
        (ErrorCode.INTERNAL, "request_id", 500),
    ],
)
def test_an_id_that_another_request_has_is_a_conflict(
    code: ErrorCode, param: str | None, status: int
) -> None:
    answer = failed(failure(code, param=param), NOW)
    error = json.loads(answer.content)["error"]
    assert (answer.status, error["param"], error["code"]) == (status, param, code)
    assert answer.headers["x-should-retry"] == "false"
    assert error == json.loads(failed_event(failure(code, param=param)).removeprefix(b"data: "))["error"]


@pytest.mark.parametrize(("after_s", "seconds"), [(61.2, "62"), (0, "0"), (-5, "0")])
def test_retry_at_becomes_retry_after_in_whole_seconds(after_s: float, seconds: str) -> None:
    error = failure(ErrorCode.BUDGET_EXCEEDED, retry_at=NOW + timedelta(seconds=after_s))
    assert failed(error, NOW).headers["retry-after"] == seconds


def test_a_result_without_chunks_is_plain_json_where_the_provider_did_not_stream() -> None:
    answer = without_chunks(result(), is_own_id=False)
    assert answer is not None
    assert (answer.status, json.loads(answer.content)) == (200, {"id": "chatcmpl-1"})
    assert without_chunks(result(response=None), is_own_id=False) is None


@pytest.mark.parametrize(("is_own_id", "should_retry"), [(True, "false"), (False, "true")])
def test_a_repeat_without_chunks_is_a_conflict_that_is_retried_under_another_id_if_it_may(
    is_own_id: bool, should_retry: str
) -> None:
    answer = without_chunks(result(replayed=True), is_own_id=is_own_id)
    assert answer is not None
    assert (answer.status, answer.headers["x-should-retry"]) == (409, should_retry)


def test_chunks_are_framed_as_each_endpoint_frames_them() -> None:
    assert event(Path.CHAT_COMPLETIONS, {"id": "c", "type": "x"}) == b'data: {"id": "c", "type": "x"}\n\n'
    assert end(Path.CHAT_COMPLETIONS) == b"data: [DONE]\n\n"
    data = {"type": "response.created", "text": "\u2028\r\n"}
    expected = b'event: response.created\ndata: {"type": "response.created", "text": "\\u2028\\r\\n"}\n\n'
    assert event(Path.RESPONSES, data) == expected
    assert end(Path.RESPONSES) == b""


def test_a_failure_after_chunks_is_an_event_with_the_error() -> None:
    said = failed_event(failure(ErrorCode.PROVIDER_UNAVAILABLE, (Outcome.BAD_RESPONSE, 200)))
    prefix, frame = said[:6], json.loads(said[6:])
    assert prefix == b"data: "
    assert frame["error"]["code"] == "provider_unavailable"
    rejected = failed_event(failure(ErrorCode.PROVIDER_REJECTED, (Outcome.REJECTED, 200), provider=SAID))
    assert json.loads(rejected[6:]) == SAID

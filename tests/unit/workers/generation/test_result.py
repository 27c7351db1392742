"""Results and usage events: built by hand for speed, held here against the models of the wire."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ErrorCode
from contracts.messages import GenerationResult, Outcome, Usage, UsageRecorded
from infra.prices import Cost
from tests.builders import NOON, NOW, make_attempt, make_envelope
from workers.generation.result import (
    FIRST,
    REPEATED,
    Error,
    Progress,
    failed,
    rfc3339,
    succeeded,
    usage_event,
)

ANSWER = b'{"id":"chatcmpl-1","object":"chat.completion"}'
LIMITED = make_attempt(
    number=101,
    key_alias="Backup",
    outcome=Outcome.RATE_LIMITED,
    http_status=429,
    error_code="rate_limit_exceeded",
    latency_ms=41,
    cost=Cost(0, known=True),
)
GOOD = make_attempt(number=102, usage=Usage(prompt_tokens=19, completion_tokens=27, total_tokens=46))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def progress(*attempts: Any) -> Progress:
    return Progress(attempts=list(attempts), waited_s=0.25, upstream_ms=844)


def validated(result: bytes, end: bytes = FIRST) -> GenerationResult:
    """Read a result as an automation does: every field must be there, and none that is unknown."""
    document = json.loads(result + end)
    assert document.keys() == GenerationResult.model_fields.keys()
    return GenerationResult.model_validate_json(result + end)


def test_a_success_is_a_result_of_the_wire() -> None:
    result = validated(succeeded(make_envelope(), progress(LIMITED, GOOD), ANSWER, NOW))
    assert (result.request_id, result.automation_id, result.status) == ("req-1", "billing-bot", "succeeded")
    assert result.response == {"id": "chatcmpl-1", "object": "chat.completion"}
    assert result.error is None
    assert result.usage == GOOD.usage
    assert (result.model, result.key_alias) == ("gpt-4o-mini-2024-07-18", "Primary")
    assert [attempt.model_dump(mode="json") for attempt in result.attempts] == [
        {"key_alias": "Backup", "outcome": "rate_limited", "http_status": 429, "latency_ms": 41},
        {"key_alias": "Primary", "outcome": "ok", "http_status": 200, "latency_ms": 803},
    ]


def test_a_requests_cost_is_that_of_all_its_attempts() -> None:
    cut = make_attempt(outcome=Outcome.BAD_RESPONSE, cost=Cost(7, known=True))
    unpriced = make_attempt(cost=Cost(0, known=False))
    result = succeeded(make_envelope(), progress(cut, unpriced, GOOD), ANSWER, NOW)
    assert validated(result).cost_nanousd == 19_057
    assert (
        validated(failed(make_envelope(), progress(cut), Error(ErrorCode.INTERNAL, "x"), NOW)).cost_nanousd
        == 7
    )


def test_the_timings_are_milliseconds_from_the_publish_on() -> None:
    envelope = make_envelope(published_at=NOW - 10, received_at=NOW - 9.988)
    timings = validated(succeeded(envelope, progress(GOOD), ANSWER, NOW)).timings
    assert (timings.queued_ms, timings.waited_ms, timings.upstream_ms) == (12, 250, 844)
    assert timings.total_ms == 10_000


def test_no_time_is_negative_when_a_clock_was_set_back() -> None:
    later = NOW + 3600
    envelope = make_envelope(published_at=later, received_at=later - 1)
    timings = validated(succeeded(envelope, progress(GOOD), ANSWER, NOW)).timings
    assert (timings.queued_ms, timings.total_ms) == (0, 0)


@pytest.mark.parametrize("code", ErrorCode)
def test_a_failure_is_a_result_of_the_wire(code: ErrorCode) -> None:
    provider = {"error": {"code": "x", "message": "schön 🎈"}}
    error = Error(code, "what happened", retry_at=NOW + 0.5, provider=provider, param="request_id")
    result = validated(failed(make_envelope(), progress(LIMITED), error, NOW))
    assert (result.status, result.response, result.model, result.key_alias) == ("failed", None, None, None)
    assert result.usage == Usage()
    assert len(result.attempts) == 1
    assert result.error is not None
    assert result.error.model_dump(mode="json") == {
        "code": code.value,
        "message": "what happened",
        "retryable": code.retryable,
        "retry_at": "2026-03-10T12:00:00.500000Z",
        "provider": provider,
        "param": "request_id",
    }


def test_a_failure_may_know_neither_when_nor_what_the_provider_said() -> None:
    result = validated(failed(make_envelope(), Progress(), Error(ErrorCode.NO_KEYS, "none"), NOW))
    assert result.error is not None
    assert (result.error.retry_at, result.error.provider, result.attempts) == (None, None, [])


@pytest.mark.parametrize(("end", "replayed"), [(FIRST, False), (REPEATED, True)])
def test_a_result_says_whether_it_was_given_before(end: bytes, replayed: bool) -> None:
    for result in (
        succeeded(make_envelope(), progress(GOOD), ANSWER, NOW),
        failed(make_envelope(), Progress(), Error(ErrorCode.INTERNAL, "ours"), NOW),
    ):
        assert validated(result, end).replayed is replayed


@pytest.mark.parametrize(
    "answer",
    [
        b'{"big":123456789012345678901234567890,"neg":-9223372036854775809}',
        b'{"f":0.1,"e":1e-7,"long":3.141592653589793238462643,"whole":1.0,"minus":-0.0}',
        '{"text":"schön 🎈 \\u00e9 \\ud83c\\udf88 \\" \\\\ \\n"}'.encode(),
        b'{"deep":{"a":[{"b":[[],{},null,true,false]}]}}',
        b'{\n  "pretty" : [ 1 ,\t2 ]\r\n}',
        b'{"replayed":true,"status":"failed"}',
    ],
)
def test_the_providers_json_goes_through_byte_for_byte(answer: bytes) -> None:
    result = succeeded(make_envelope(), progress(GOOD), answer, NOW)
    assert answer in result
    assert validated(result).response == json.loads(answer)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_json_of_the_provider_has_the_same_values(answer: dict[str, Any]) -> None:
    result = succeeded(make_envelope(), progress(GOOD), json.dumps(answer).encode(), NOW)
    assert json.loads(result + FIRST)["response"] == answer


@given(st.text(min_size=1, max_size=128), st.text(), st.text())
def test_no_text_breaks_out_of_its_field(request_id: str, alias: str, message: str) -> None:
    envelope = make_envelope(request_id=request_id)
    attempt = make_attempt(key_alias=alias, outcome=Outcome.TIMEOUT, http_status=None)
    result = validated(failed(envelope, progress(attempt), Error(ErrorCode.INTERNAL, message), NOW))
    assert (result.request_id, result.attempts[0].key_alias) == (request_id, alias)
    assert result.error is not None
    assert result.error.message == message


def test_a_good_attempt_is_a_usage_event_of_the_wire() -> None:
    raw = usage_event(make_envelope(), "/chat/completions", "u-42", GOOD)
    assert orjson.loads(raw).keys() == UsageRecorded.model_fields.keys()
    event = UsageRecorded.model_validate_json(raw)
    assert event == UsageRecorded(
        event_id="req-1:102",
        request_id="req-1",
        automation_id="billing-bot",
        user_id="u-42",
        key_id="key-1",
        key_alias="Primary",
        path="/chat/completions",
        model="gpt-4o-mini-2024-07-18",
        outcome=Outcome.OK,
        http_status=200,
        error_code=None,
        prompt_tokens=19,
        completion_tokens=27,
        total_tokens=46,
        cost_nanousd=19_050,
        price_known=True,
        latency_ms=803,
        reserved_tokens=60,
        occurred_at=NOON,
    )


@pytest.mark.parametrize("outcome", Outcome)
def test_an_attempt_of_any_outcome_is_a_usage_event(outcome: Outcome) -> None:
    attempt = make_attempt(
        outcome=outcome,
        http_status=None,
        error_code="some_code",
        cost=Cost(0, known=False),
        tokens_estimated=True,
    )
    event = UsageRecorded.model_validate_json(usage_event(make_envelope(), "/responses", None, attempt))
    assert (event.outcome, event.http_status, event.error_code) == (outcome, None, "some_code")
    assert (event.user_id, event.price_known, event.tokens_estimated) == (None, False, True)


def test_times_are_utc_in_milliseconds() -> None:
    assert rfc3339(NOON.timestamp() + 0.0625) == "2026-03-10T12:00:00.062Z"

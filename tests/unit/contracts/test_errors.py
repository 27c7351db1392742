"""The errors that an automation sees: one class for each code."""

from datetime import UTC, datetime

import pytest

from contracts.errors import (
    ERROR_CLASSES,
    ErrorCode,
    GenerationError,
    KeywayError,
    ReplyTimeoutError,
    error_class,
)
from contracts.messages import GenerationResult, ResultError, Timings, Usage

#: The table of wire.md.
RETRYABLE = {
    "invalid_request": False,
    "provider_rejected": False,
    "no_keys": False,
    "no_usable_key": False,
    "keys_exhausted": True,
    "budget_exceeded": True,
    "deadline_exceeded": True,
    "provider_unavailable": True,
    "automation_disabled": False,
    "internal": True,
}


def test_the_codes_are_those_of_the_wire() -> None:
    assert {str(code) for code in ErrorCode} == RETRYABLE.keys()


@pytest.mark.parametrize(("code", "retryable"), RETRYABLE.items())
def test_a_code_is_retryable_as_the_wire_says(code: str, retryable: bool) -> None:
    assert ErrorCode(code).retryable is retryable


def test_every_code_has_one_class_and_every_class_a_code() -> None:
    assert set(ERROR_CLASSES) == set(ErrorCode)
    assert set(ERROR_CLASSES.values()) == set(GenerationError.__subclasses__())
    assert all(cls.code is code for code, cls in ERROR_CLASSES.items())


@pytest.mark.parametrize("code", ErrorCode)
def test_the_class_of_a_code_is_found_by_the_text_of_the_wire(code: ErrorCode) -> None:
    assert error_class(code.value) is ERROR_CLASSES[code]


@pytest.mark.parametrize("retryable", [True, False])
def test_a_code_of_a_later_version_is_raised_as_retryable_as_it_says(retryable: bool) -> None:
    error = ResultError(code="of_a_later_version", message="what happened", retryable=retryable)
    raised = error_class(error.code)(error.message, retry_at=None, result=failed(error))
    assert type(raised) is GenerationError
    assert raised.retryable is retryable


def failed(error: ResultError | None) -> GenerationResult:
    return GenerationResult(
        request_id="req-1",
        automation_id="billing-bot",
        status="failed",
        response=None,
        error=error,
        usage=Usage(),
        cost_nanousd=0,
        model=None,
        key_alias=None,
        attempts=[],
        timings=Timings(queued_ms=0, waited_ms=0, upstream_ms=0, total_ms=0),
        replayed=False,
    )


@pytest.mark.parametrize("code", ErrorCode)
def test_a_failed_result_is_raised_with_all_that_is_known(code: ErrorCode) -> None:
    result = failed(None)
    retry_at = datetime(2026, 3, 11, tzinfo=UTC)
    error = ERROR_CLASSES[code]("what happened", retry_at=retry_at, result=result)
    assert isinstance(error, KeywayError)
    assert str(error) == "what happened"
    assert error.retryable is RETRYABLE[code]
    assert error.retry_at == retry_at
    assert error.result is result


def test_a_missing_answer_names_the_request_and_how_long_was_waited() -> None:
    error = ReplyTimeoutError("req-7", 2.5)
    assert error.request_id == "req-7"
    assert str(error) == "no answer to request req-7 within 2.5 s"

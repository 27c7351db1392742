"""What a request is told for which there is no key."""

from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.errors import ErrorCode
from tests.builders import NOW
from workers.generation.answers import Failure
from workers.generation.classification import MODEL_UNAVAILABLE, SERVER_ERROR, classify
from workers.generation.refusals import refused
from workers.keys.selection import Refusal, RefusalReason

PROVIDER: dict[str, Any] = {"error": {"message": "what the provider says"}}
OVERLOADED = Failure(SERVER_ERROR, "what the provider says", 12, 503, None, PROVIDER)
LIMITED = Failure(classify(429, "", "", {}, NOW), "slow down", 12, 429, None, PROVIDER)
NO_MODEL = Failure(MODEL_UNAVAILABLE, "the model `o9` does not exist", 12, 404, None, PROVIDER)


@pytest.mark.parametrize(
    ("reason", "failure", "code"),
    [
        (RefusalReason.DEADLINE_PASSED, None, ErrorCode.DEADLINE_EXCEEDED),
        (RefusalReason.PROVIDER_FAILING, None, ErrorCode.PROVIDER_UNAVAILABLE),
        (RefusalReason.PROVIDER_FAILING, OVERLOADED, ErrorCode.PROVIDER_UNAVAILABLE),
        (RefusalReason.NO_KEYS, None, ErrorCode.NO_KEYS),
        (RefusalReason.NO_USABLE_KEY, None, ErrorCode.NO_USABLE_KEY),
        (RefusalReason.MODEL_UNAVAILABLE, None, ErrorCode.PROVIDER_REJECTED),
        (RefusalReason.MODEL_UNAVAILABLE, NO_MODEL, ErrorCode.PROVIDER_REJECTED),
        (RefusalReason.KEYS_EXHAUSTED, None, ErrorCode.KEYS_EXHAUSTED),
        (RefusalReason.KEYS_EXHAUSTED, OVERLOADED, ErrorCode.KEYS_EXHAUSTED),
        (RefusalReason.BUDGET_SPENT, None, ErrorCode.BUDGET_EXCEEDED),
        (RefusalReason.NO_CAPACITY, None, ErrorCode.DEADLINE_EXCEEDED),
        (RefusalReason.NO_CAPACITY, LIMITED, ErrorCode.DEADLINE_EXCEEDED),
        (RefusalReason.NO_CAPACITY, OVERLOADED, ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_a_request_without_a_key_fails_with_the_code_of_its_reason(
    reason: RefusalReason, failure: Failure | None, code: ErrorCode
) -> None:
    assert refused(Refusal(reason), failure).code is code


@pytest.mark.parametrize("reason", RefusalReason)
def test_every_reason_has_an_error_with_a_message(reason: RefusalReason) -> None:
    assert refused(Refusal(reason, detail="the daily budget is spent"), None).message


@pytest.mark.parametrize(
    "reason", [RefusalReason.KEYS_EXHAUSTED, RefusalReason.BUDGET_SPENT, RefusalReason.NO_CAPACITY]
)
@pytest.mark.parametrize("failure", [None, OVERLOADED])
def test_when_to_ask_again_is_passed_on(reason: RefusalReason, failure: Failure | None) -> None:
    retry_at = datetime(2026, 3, 11, tzinfo=UTC).timestamp()
    assert refused(Refusal(reason, retry_at), failure).retry_at == retry_at


@pytest.mark.parametrize(
    "reason", [reason for reason in RefusalReason if reason is not RefusalReason.NO_KEYS]
)
def test_what_the_provider_said_last_is_passed_on(reason: RefusalReason) -> None:
    assert refused(Refusal(reason), OVERLOADED).provider == PROVIDER
    assert refused(Refusal(reason), None).provider is None


def test_where_no_key_has_the_model_the_providers_own_words_are_the_message() -> None:
    refusal = Refusal(RefusalReason.MODEL_UNAVAILABLE)
    assert refused(refusal, NO_MODEL).message == "the model `o9` does not exist"
    assert refused(refusal, None).message == "no key of the automation may use this model"

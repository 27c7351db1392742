"""What an automation is told to which no key is lent."""

import pytest

from contracts.errors import ErrorCode
from contracts.messages import GenerationResult
from infra.mongo import Document
from tests.builders import NOON, NOW
from workers.keys.selection import Refusal, RefusalReason
from workers.leasing.automation import Automation, read, unwilling
from workers.leasing.reading import Envelope
from workers.leasing.refusals import Failure, answer, refused

CODES = {
    RefusalReason.DEADLINE_PASSED: ErrorCode.DEADLINE_EXCEEDED,
    RefusalReason.NO_KEYS: ErrorCode.NO_KEYS,
    RefusalReason.NO_USABLE_KEY: ErrorCode.NO_USABLE_KEY,
    RefusalReason.MODEL_UNAVAILABLE: ErrorCode.PROVIDER_REJECTED,
    RefusalReason.KEYS_EXHAUSTED: ErrorCode.KEYS_EXHAUSTED,
    RefusalReason.BUDGET_SPENT: ErrorCode.BUDGET_EXCEEDED,
    RefusalReason.PROVIDER_FAILING: ErrorCode.PROVIDER_UNAVAILABLE,
    RefusalReason.NO_CAPACITY: ErrorCode.DEADLINE_EXCEEDED,
}


@pytest.mark.parametrize("reason", RefusalReason)
def test_every_reason_has_a_code_and_a_message(reason: RefusalReason) -> None:
    failure = refused(Refusal(reason, NOW, "the daily budget is spent"))
    assert failure.code is CODES[reason]
    assert failure.message
    assert (failure.retry_at is not None) is (failure.code.retryable)


@pytest.mark.parametrize(
    ("automation", "code"),
    [
        ({"enabled": False, "allow_leases": True}, ErrorCode.AUTOMATION_DISABLED),
        ({"enabled": True, "allow_leases": False}, ErrorCode.INVALID_REQUEST),
        ({"enabled": True}, ErrorCode.INVALID_REQUEST),
        ({"enabled": True, "allow_leases": True}, None),
    ],
)
def test_only_an_automation_that_may_have_keys_gets_one(automation: Document, code: ErrorCode | None) -> None:
    found = read({"_id": "billing-bot", **automation})
    assert isinstance(found, Automation)
    failure = unwilling(found)
    assert (failure.code if failure else None) is code


def test_settings_that_can_not_be_read_are_named_without_their_value() -> None:
    failure = read({"_id": "billing-bot", "enabled": True, "max_in_flight": "many"})
    assert isinstance(failure, Failure)
    assert failure.code is ErrorCode.INTERNAL
    assert "max_in_flight" in failure.message
    assert "many" not in failure.message


def test_a_refusal_is_a_failed_result_of_the_contract() -> None:
    envelope = Envelope("billing-bot", "req-1", "c-1", "replies.billing-bot", has_id=True)
    failure = Failure(ErrorCode.KEYS_EXHAUSTED, "spent", NOW)
    result = GenerationResult.model_validate_json(answer(envelope, failure, 1.5))
    assert (result.status, result.request_id, result.automation_id) == ("failed", "req-1", "billing-bot")
    assert result.error is not None
    assert (result.error.code, result.error.message) == (ErrorCode.KEYS_EXHAUSTED, "spent")
    assert (result.error.retryable, result.error.retry_at) == (True, NOON)
    assert result.timings.waited_ms == 1500

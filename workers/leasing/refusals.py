"""What an automation is told to which no key is lent: pure decisions, and the answer that says so."""

from dataclasses import dataclass
from datetime import UTC, datetime

from contracts.errors import ErrorCode
from contracts.messages import GenerationResult, ResultError, Timings, Usage
from workers.keys.selection import Refusal, RefusalReason
from workers.leasing.reading import Envelope


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no key is lent; `retry_at` in seconds since the epoch."""

    code: ErrorCode
    message: str
    retry_at: float | None = None


def refused(refusal: Refusal) -> Failure:
    """What a request is told for which the pool has no key."""
    match refusal.reason:
        case RefusalReason.NO_KEYS:
            return Failure(ErrorCode.NO_KEYS, "the automation has no keys; add one with `keyway keys add`")
        case RefusalReason.NO_USABLE_KEY:
            return Failure(ErrorCode.NO_USABLE_KEY, "every key is disabled or in error")
        case RefusalReason.MODEL_UNAVAILABLE:
            return Failure(ErrorCode.PROVIDER_REJECTED, "no key of the automation may use this model")
        case RefusalReason.KEYS_EXHAUSTED:
            message = "every usable key is out of its daily tokens or its quota"
            return Failure(ErrorCode.KEYS_EXHAUSTED, message, refusal.retry_at)
        case RefusalReason.BUDGET_SPENT:
            return Failure(ErrorCode.BUDGET_EXCEEDED, refusal.detail, refusal.retry_at)
        case RefusalReason.PROVIDER_FAILING:
            message = "every key is left out, since its calls fail"
            return Failure(ErrorCode.PROVIDER_UNAVAILABLE, message, refusal.retry_at)
        case RefusalReason.NO_CAPACITY | RefusalReason.DEADLINE_PASSED:
            message = "no key has room within the time that a direct key may be waited for"
            return Failure(ErrorCode.DEADLINE_EXCEEDED, message, refusal.retry_at)


def answer(envelope: Envelope, failure: Failure, waited_s: float) -> bytes:
    """The failed `generation.result.v1` for who asked.

    Args:
        envelope: of the request.
        failure: why.
        waited_s: how long the request waited here, in seconds.
    """
    waited_ms = max(0, round(waited_s * 1000))
    retry_at = None if failure.retry_at is None else datetime.fromtimestamp(failure.retry_at, UTC)
    result = GenerationResult(
        request_id=envelope.request_id,
        automation_id=envelope.automation_id,
        status="failed",
        response=None,
        error=ResultError(
            code=failure.code, message=failure.message, retryable=failure.code.retryable, retry_at=retry_at
        ),
        usage=Usage(),
        cost_nanousd=0,
        model=None,
        key_alias=None,
        attempts=[],
        timings=Timings(queued_ms=0, waited_ms=waited_ms, upstream_ms=0, total_ms=waited_ms),
        replayed=False,
    )
    return result.model_dump_json().encode()

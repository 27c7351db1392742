"""What a request is told for which there is no key."""

from contracts.errors import ErrorCode
from workers.generation.answers import Failure
from workers.generation.classification import Next
from workers.generation.result import Error
from workers.keys.selection import Refusal, RefusalReason


def refused(refusal: Refusal, failure: Failure | None) -> Error:
    """The error of a request for which there is no key, after the failure of its last attempt, if any."""
    provider = failure.provider if failure else None
    match refusal.reason:
        case RefusalReason.DEADLINE_PASSED:
            message = "the deadline passed before a call could start"
            return Error(ErrorCode.DEADLINE_EXCEEDED, message, provider=provider)
        case RefusalReason.NO_KEYS:
            return Error(ErrorCode.NO_KEYS, "the automation has no keys; add one with `keyway keys add`")
        case RefusalReason.NO_USABLE_KEY:
            return Error(ErrorCode.NO_USABLE_KEY, "every key is disabled or in error", provider=provider)
        case RefusalReason.MODEL_UNAVAILABLE:
            message = failure.message if failure else "no key of the automation may use this model"
            return Error(ErrorCode.PROVIDER_REJECTED, message, provider=provider)
        case RefusalReason.KEYS_EXHAUSTED:
            message = "every usable key is out of its daily tokens or its quota until after the deadline"
            return Error(ErrorCode.KEYS_EXHAUSTED, message, refusal.retry_at, provider)
        case RefusalReason.BUDGET_SPENT:
            return Error(ErrorCode.BUDGET_EXCEEDED, refusal.detail, refusal.retry_at, provider)
        case RefusalReason.PROVIDER_FAILING:
            message = failure.message if failure else "every key is left out, since its calls fail"
            return Error(ErrorCode.PROVIDER_UNAVAILABLE, message, refusal.retry_at, provider)
        case RefusalReason.NO_CAPACITY:
            if failure is not None and failure.verdict.next is Next.BACK_OFF:
                return Error(ErrorCode.PROVIDER_UNAVAILABLE, failure.message, refusal.retry_at, provider)
            message = "no key has room before the deadline"
            return Error(ErrorCode.DEADLINE_EXCEEDED, message, refusal.retry_at, provider)

"""What can go wrong, as an automation sees it: one exception per code of wire.md.

KeywayError
├── PublishError                  the request never reached a queue: no such automation, or refused
├── ReplyTimeoutError             no answer within the caller's own timeout; the request may still be done
├── ClientClosedError             the client was closed under a request, which may still be done
├── InvalidReplyError             an answer came that does not follow the contract
├── BrokenStreamError             chunks of a streamed answer are missing
├── SlowConsumerError             a streamed answer came faster than it was taken
└── GenerationError               a result with status `failed`
    ├── InvalidRequestError       invalid_request
    ├── ProviderRejectedError     provider_rejected
    ├── NoKeysError               no_keys
    ├── NoUsableKeyError          no_usable_key
    ├── KeysExhaustedError        keys_exhausted
    ├── BudgetExceededError       budget_exceeded
    ├── DeadlineExceededError     deadline_exceeded
    ├── ProviderUnavailableError  provider_unavailable
    ├── AutomationDisabledError   automation_disabled
    └── InternalError             internal
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from datetime import datetime

    from contracts.messages import GenerationResult


class ErrorCode(StrEnum):
    """The codes of a failed result."""

    INVALID_REQUEST = "invalid_request"
    PROVIDER_REJECTED = "provider_rejected"
    NO_KEYS = "no_keys"
    NO_USABLE_KEY = "no_usable_key"
    KEYS_EXHAUSTED = "keys_exhausted"
    BUDGET_EXCEEDED = "budget_exceeded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    AUTOMATION_DISABLED = "automation_disabled"
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later (wire.md's table)."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        ErrorCode.KEYS_EXHAUSTED,
        ErrorCode.BUDGET_EXCEEDED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.PROVIDER_UNAVAILABLE,
        ErrorCode.INTERNAL,
    }
)


class KeywayError(Exception):
    """Base of all errors that `contracts` raises."""


class PublishError(KeywayError):
    """The broker did not take the request: nothing was done, nothing will be."""


class ReplyTimeoutError(KeywayError):
    """No answer came in time; the request may still be done. Ask again with the same id."""

    def __init__(self, request_id: str, timeout_s: float) -> None:
        super().__init__(f"no answer to request {request_id} within {timeout_s:g} s")
        self.request_id = request_id


class ClientClosedError(KeywayError):
    """The client was closed, or never opened; a request that was under way may still be done."""


class InvalidReplyError(KeywayError):
    """An answer does not follow the contract: it is from another version, or from somebody else.

    Attributes:
        request_id: whose answer it is.
        body: the answer, as it came.
    """

    def __init__(self, request_id: str, reason: str, body: bytes) -> None:
        super().__init__(f"the answer to request {request_id} is not readable: {reason}")
        self.request_id = request_id
        self.body = body


class BrokenStreamError(KeywayError):
    """Chunks of a streamed answer are missing: ask again with its id or, where they are gone, another."""


class SlowConsumerError(KeywayError):
    """A streamed answer came so much faster than it was taken that the stream was closed."""


class GenerationError(KeywayError):
    """A result with status `failed`.

    Attributes:
        code: the error's code; `internal` where this version does not know it, as `result.error.code` has it.
        retryable: whether the same request may succeed later.
        retry_at: when, if that is known.
        result: the whole result, with its attempts.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str, *, retry_at: datetime | None, result: GenerationResult) -> None:
        super().__init__(message)
        self.retryable = result.error.retryable if result.error else self.code.retryable
        self.retry_at = retry_at
        self.result = result


class InvalidRequestError(GenerationError):
    """The request does not follow the contract; it is dead-lettered too."""

    code = ErrorCode.INVALID_REQUEST


class ProviderRejectedError(GenerationError):
    """The provider says that the request itself is wrong; its error body is in `result.error.provider`."""

    code = ErrorCode.PROVIDER_REJECTED


class NoKeysError(GenerationError):
    """The automation has no keys at all."""

    code = ErrorCode.NO_KEYS


class NoUsableKeyError(GenerationError):
    """Every key of the automation is disabled or in error."""

    code = ErrorCode.NO_USABLE_KEY


class KeysExhaustedError(GenerationError):
    """Every usable key is out of its daily tokens or quota until after the deadline."""

    code = ErrorCode.KEYS_EXHAUSTED


class BudgetExceededError(GenerationError):
    """A budget of key, automation or user is spent."""

    code = ErrorCode.BUDGET_EXCEEDED


class DeadlineExceededError(GenerationError):
    """There was no answer before the deadline."""

    code = ErrorCode.DEADLINE_EXCEEDED


class ProviderUnavailableError(GenerationError):
    """Every attempt failed for reasons that are the provider's."""

    code = ErrorCode.PROVIDER_UNAVAILABLE


class AutomationDisabledError(GenerationError):
    """An operator switched the automation off."""

    code = ErrorCode.AUTOMATION_DISABLED


class InternalError(GenerationError):
    """Keyway failed; the request is dead-lettered with the reason."""

    code = ErrorCode.INTERNAL


ERROR_CLASSES: dict[str, type[GenerationError]] = {
    cls.code: cls
    for cls in (
        InvalidRequestError,
        ProviderRejectedError,
        NoKeysError,
        NoUsableKeyError,
        KeysExhaustedError,
        BudgetExceededError,
        DeadlineExceededError,
        ProviderUnavailableError,
        AutomationDisabledError,
        InternalError,
    )
}


def error_class(code: str) -> type[GenerationError]:
    """The exception of a code; `GenerationError` itself for one that a later version of Keyway brought."""
    return ERROR_CLASSES.get(code, GenerationError)

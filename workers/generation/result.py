"""Builds the bytes of `generation.result.v1` and `usage.recorded.v1` without a model on the hot path.

The provider's JSON goes through as the bytes that came. Tests hold what is built here against the models.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from contracts.errors import ErrorCode
from contracts.message_size import MessageTooLargeError
from contracts.messages import Outcome, Usage
from infra.prices import Cost
from workers.generation.reading import Envelope

NO_USAGE: Final = Usage()
FREE: Final = Cost(0, known=True)
#: How a stored result ends, and how it ends when it is repeated.
FIRST: Final = b',"replayed":false}'
REPEATED: Final = b',"replayed":true}'


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt, for the result and for the ledger."""

    number: int
    key_id: str
    key_alias: str
    outcome: Outcome
    http_status: int | None
    error_code: str | None
    latency_ms: int
    reserved_tokens: int
    model: str
    #: Seconds since the epoch, on MongoDB's clock.
    occurred_at: float
    usage: Usage = NO_USAGE
    cost: Cost = FREE
    tokens_estimated: bool = False
    #: What the provider said of its use that can't be true, for people.
    usage_problem: str | None = None


@dataclass(slots=True)
class Progress:
    """What is known of a request while it is done."""

    attempts: list[AttemptRecord] = field(default_factory=list)
    waited_s: float = 0.0
    upstream_ms: int = 0
    #: Pauses between attempts, in seconds.
    backed_off_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Error:
    """Why a request fails; `retry_at` in seconds since the epoch."""

    code: ErrorCode
    message: str
    retry_at: float | None = None
    provider: dict[str, Any] | None = None
    #: Whether the same request would fail again, although others with this code might not.
    is_final: bool = False
    #: What of the request is wrong, where it is one thing.
    param: str | None = None


def succeeded(envelope: Envelope, progress: Progress, raw: bytes, now: float) -> bytes:
    """The result of a request whose last attempt was answered, up to its `replayed`."""
    return _result(envelope, progress, now, "succeeded", response=orjson.Fragment(raw))


def failed(envelope: Envelope, progress: Progress, error: Error, now: float) -> bytes:
    """The result of a request that failed, up to its `replayed`."""
    body = {
        "code": error.code,
        "message": error.message,
        "retryable": error.code.retryable and not error.is_final,
        "retry_at": None if error.retry_at is None else rfc3339(error.retry_at),
        "provider": error.provider,
        "param": error.param,
    }
    return _result(envelope, progress, now, "failed", error=body)


def failure_message(result: bytes) -> str:
    """Why a request failed, from its whole result."""
    return str(orjson.loads(result)["error"]["message"])


def too_large(refused: MessageTooLargeError, what: str) -> Error:
    """Why an answer that was paid for can't be delivered.

    Args:
        refused: what RabbitMQ refuses, or would.
        what: is too large.
    """
    return Error(ErrorCode.INTERNAL, f"{what} is too large to be delivered: {refused}", is_final=True)


def usage_event(envelope: Envelope, path: str, user_id: str | None, attempt: AttemptRecord) -> bytes:
    """The `usage.recorded.v1` of one attempt."""
    usage = attempt.usage
    return orjson.dumps(
        {
            "event_id": f"{envelope.request_id}:{attempt.number}",
            "request_id": envelope.request_id,
            "automation_id": envelope.automation_id,
            "user_id": user_id,
            "key_id": attempt.key_id,
            "key_alias": attempt.key_alias,
            "path": path,
            "model": attempt.model,
            "outcome": attempt.outcome,
            "http_status": attempt.http_status,
            "error_code": attempt.error_code,
            **_tokens(usage),
            "cost_nanousd": attempt.cost.nanousd,
            "price_known": attempt.cost.known,
            "tokens_estimated": attempt.tokens_estimated,
            "usage_problem": attempt.usage_problem,
            "latency_ms": attempt.latency_ms,
            "reserved_tokens": attempt.reserved_tokens,
            "source": "worker",
            "occurred_at": rfc3339(attempt.occurred_at),
        }
    )


def timings(envelope: Envelope, progress: Progress, now: float) -> dict[str, int]:
    """How long a request took that ends now."""
    return {
        "queued_ms": _milliseconds(envelope.received_at - envelope.published_at),
        "waited_ms": _milliseconds(progress.waited_s),
        "upstream_ms": progress.upstream_ms,
        "total_ms": _milliseconds(now - envelope.published_at),
    }


def rfc3339(seconds: float) -> str:
    """A time of the wire, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _result(
    envelope: Envelope,
    progress: Progress,
    now: float,
    status: str,
    *,
    response: orjson.Fragment | None = None,
    error: dict[str, Any] | None = None,
) -> bytes:
    last = progress.attempts[-1] if response is not None else None
    return orjson.dumps(
        {
            "request_id": envelope.request_id,
            "automation_id": envelope.automation_id,
            "status": status,
            "response": response,
            "error": error,
            "usage": _tokens(last.usage if last else NO_USAGE),
            "usage_problem": last.usage_problem if last else None,
            "cost_nanousd": sum(attempt.cost.nanousd for attempt in progress.attempts),
            "model": last.model if last else None,
            "key_alias": last.key_alias if last else None,
            "attempts": [
                {
                    "key_alias": attempt.key_alias,
                    "outcome": attempt.outcome,
                    "http_status": attempt.http_status,
                    "latency_ms": attempt.latency_ms,
                }
                for attempt in progress.attempts
            ],
            "timings": timings(envelope, progress, now),
        }
    )[:-1]


def _tokens(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))

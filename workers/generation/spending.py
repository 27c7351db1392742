"""What an attempt used: its record for result and ledger, and what its reservation is settled with."""

from typing import Final

from contracts.messages import Outcome, Path, Usage
from infra.bounds import LONGEST_MODEL, MOST_NANOUSD, is_text
from infra.money import usd
from infra.prices import Cost, cost
from workers.generation.answers import Answer, Failure
from workers.generation.provider_usage import model_of, untrue_usage, usage_of
from workers.generation.reading import Request
from workers.generation.result import FREE, NO_USAGE, AttemptRecord
from workers.generation.tokens import estimate_text
from workers.keys.health import Sample
from workers.keys.pool import Reservation
from workers.keys.reported import RateLimits
from workers.keys.settlements import Settlement

#: The longest error code of a provider that is kept, in characters.
LONGEST_CODE: Final = 128
#: A cost that nobody knows.
UNKNOWN: Final = Cost(0, known=False)


def answered(
    request: Request, reserved: Reservation, answer: Answer, number: int, now: float
) -> tuple[AttemptRecord, Settlement]:
    """An attempt that the provider answered.

    Args:
        request: that was asked.
        reserved: what was reserved for it.
        answer: the provider's.
        number: of the attempt.
        now: the time on MongoDB's clock, in seconds since the epoch.
    """
    usage, estimated, problem = _usage(request, answer)
    model = model_of(answer.document)
    if model is None:
        model = _asked(request)
        problem = problem or _untrue_model(answer)
    price = _cost(model, usage)
    if price.nanousd > MOST_NANOUSD:
        price, problem = UNKNOWN, problem or f"the call would cost {usd(price.nanousd)}"
    record = AttemptRecord(
        number=number,
        key_id=reserved.key.id,
        key_alias=reserved.key.alias,
        outcome=Outcome.OK,
        http_status=answer.http_status,
        error_code=None,
        latency_ms=answer.latency_ms,
        reserved_tokens=reserved.tokens,
        model=model,
        usage=usage,
        cost=price,
        tokens_estimated=estimated,
        usage_problem=problem,
        occurred_at=now,
    )
    settlement = Settlement(
        reserved.second,
        reserved.tokens,
        usage.total_tokens,
        reserved.model,
        sample=Sample(ok=True, latency_ms=answer.latency_ms),
        rate_limits=_of_model(request, reserved, answer.rate_limits),
        cost_nanousd=record.cost.nanousd,
    )
    return record, settlement


def failed(
    request: Request, reserved: Reservation, failure: Failure, number: int, now: float
) -> tuple[AttemptRecord, Settlement]:
    """An attempt that failed: it used nothing, unless a part of a streamed answer had come.

    Args:
        request: that was asked.
        reserved: what was reserved for it.
        failure: how it failed.
        number: of the attempt.
        now: the time on MongoDB's clock, in seconds since the epoch.
    """
    verdict, model = failure.verdict, _asked(request)
    streamed = failure.output_tokens
    usage = NO_USAGE if streamed is None else _estimated(request, streamed)
    record = AttemptRecord(
        number=number,
        key_id=reserved.key.id,
        key_alias=reserved.key.alias,
        outcome=verdict.outcome,
        http_status=failure.http_status,
        error_code=_cut(failure.error_code),
        latency_ms=failure.latency_ms,
        reserved_tokens=reserved.tokens,
        model=model,
        usage=usage,
        cost=FREE if streamed is None else _cost(model, usage),
        tokens_estimated=streamed is not None,
        occurred_at=now,
    )
    settlement = Settlement(
        reserved.second,
        reserved.tokens,
        usage.total_tokens,
        reserved.model,
        sample=Sample(ok=False) if verdict.blames_key else None,
        cool_ms=verdict.cool_ms,
        cool_reason=verdict.outcome,
        denies_model=verdict.denies_model and bool(reserved.model),
        # What a provider says of the limits of a model that it does not know is of no use.
        rate_limits=None if verdict.denies_model else _of_model(request, reserved, failure.rate_limits),
        cost_nanousd=record.cost.nanousd,
    )
    return record, settlement


def _usage(request: Request, answer: Answer) -> tuple[Usage, bool, str | None]:
    """The provider's count; without one, an estimate from both texts. Moderations have none.

    Returns:
        The count, whether it is an estimate, and what the provider said that can't be true.
    """
    usage = usage_of(answer.document)
    if usage is not None:
        return usage, False, None
    if "usage" not in answer.document and request.path is Path.MODERATIONS:
        return NO_USAGE, False, None
    streamed = answer.output_tokens
    estimated = _estimated(request, estimate_text(answer.document) if streamed is None else streamed)
    return estimated, True, untrue_usage(answer.document)


def _estimated(request: Request, output_tokens: int) -> Usage:
    prompt_tokens = request.input_tokens
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=output_tokens,
        total_tokens=prompt_tokens + output_tokens,
    )


def _cost(model: str, usage: Usage) -> Cost:
    return cost(model, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)


def _of_model(request: Request, reserved: Reservation, word: RateLimits | None) -> RateLimits | None:
    """What the provider says of a model's limits, unless the model is counted together with others."""
    return word if reserved.model or request.model is None else None


def _asked(request: Request) -> str:
    """The model that was asked for, as the books name it."""
    return request.model if is_text(request.model, LONGEST_MODEL) else "unknown"


def _untrue_model(answer: Answer) -> str | None:
    if isinstance(answer.document.get("model"), str):
        return f"the provider's model is no name of 1 to {LONGEST_MODEL} characters"
    return None


def _cut(code: str | None) -> str | None:
    """The provider's error code, of which the ledger keeps what is of use."""
    if code is None or is_text(code, LONGEST_CODE):
        return code
    return f"{code[: LONGEST_CODE - 1]}…".encode(errors="replace").decode()

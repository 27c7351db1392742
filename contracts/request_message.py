"""A request as a message, and its result out of one."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aio_pika import DeliveryMode, Message
from pydantic import ValidationError

from contracts import names
from contracts.errors import InvalidReplyError, error_class
from contracts.messages import GenerationRequest, GenerationResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiormq.abc import DeliveredMessage


#: An answer that says that the deadline passed may come this much after it, in seconds.
ANSWER_GRACE_S = 5.0


def request_message(
    request_id: str,
    path: str,
    body: Mapping[str, Any],
    *,
    user: str | None,
    timeout: float,
    metadata: Mapping[str, Any] | None,
    reply_to: str,
    trace: Mapping[str, str],
) -> Message:
    """A `generation.request.v1` as it is published.

    Args:
        request_id: its id and idempotency key.
        path: the provider's endpoint.
        body: the provider's request body.
        user: whom the usage is booked on.
        timeout: how far ahead the deadline lies, in seconds.
        metadata: the automation's own.
        reply_to: where the answer goes.
        trace: the headers of the trace context.

    Raises:
        ValueError: the request does not follow the contract.
    """
    deadline = datetime.now(UTC) + timedelta(seconds=timeout)
    request = GenerationRequest.model_validate(
        {"path": path, "body": dict(body), "user_id": user, "deadline": deadline, "metadata": metadata or {}}
    )
    return Message(
        request.model_dump_json(exclude_defaults=True).encode(),
        type=names.GENERATION_REQUEST,
        content_type="application/json",
        message_id=request_id,
        correlation_id=request_id,
        reply_to=reply_to,
        delivery_mode=DeliveryMode.PERSISTENT,
        headers={**trace, names.PUBLISHED_AT_HEADER: int(time.time() * 1000)},
    )


def read_result(message: DeliveredMessage) -> GenerationResult:
    """The result that a message carries.

    Raises:
        InvalidReplyError: it is not a result.
    """
    request_id = message.header.properties.correlation_id or ""
    if (kind := message.header.properties.message_type) != names.GENERATION_RESULT:
        raise InvalidReplyError(request_id, f"it is of type {kind!r}", message.body)
    try:
        result = GenerationResult.model_validate_json(message.body)
    except ValidationError as error:
        raise InvalidReplyError(request_id, first_problem(error), message.body) from None
    if (result.status == "failed") is (result.error is None):
        raise InvalidReplyError(request_id, f"status {result.status} with error {result.error}", message.body)
    return result


def first_problem(error: ValidationError) -> str:
    """What is wrong with a message, in one line and without its contents."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def raise_if_failed(result: GenerationResult) -> None:
    """Raise a failed result's error.

    Raises:
        GenerationError: the result failed; the subclass is that of its code.
    """
    if (error := result.error) is not None:
        raise error_class(error.code)(error.message, retry_at=error.retry_at, result=result)

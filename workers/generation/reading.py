"""Reads a delivery into a request, or says what is wrong with it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from contracts import names
from contracts.messages import GenerationRequest, Path
from infra.bounds import FURTHEST_AHEAD_S, LONGEST_MODEL, LONGEST_S, MOST_COUNTED, is_count
from infra.deliveries import LONGEST_ID, Delivery, why_no_id, why_unreadable
from infra.origin import misrouted
from infra.trace_headers import trace_of
from workers.generation.json_bounds import TOO_INTRICATE, is_too_intricate
from workers.generation.tokens import estimate_input

#: How far ahead a deadline may lie, in seconds.
LONGEST_DEADLINE_S = 24 * 3600
#: What a time of publishing has to be.
TIMELY = f"at most {LONGEST_S // 86400} days ago, and at most {FURTHEST_AHEAD_S // 3600} h ahead"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a delivery says beside its body; there even when the body is wrong.

    Times are seconds since the epoch: `published_at` on the publisher's clock, `received_at` on MongoDB's.
    """

    automation_id: str
    request_id: str
    correlation_id: str | None
    reply_to: str | None
    published_at: float
    received_at: float
    #: Whether the request came with its id, so that the journal knows it when it is delivered again.
    has_id: bool = True
    #: W3C trace context that came with the request; it goes with what is published for it.
    trace: Mapping[str, str] | None = None
    #: How often it was delivered before (RabbitMQ's `x-delivery-count`), when it waited or its worker died.
    deliveries: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A request that may be done."""

    envelope: Envelope
    path: Path
    body: dict[str, Any]
    user_id: str | None
    deadline: float
    #: Tokens that the body is expected to have.
    input_tokens: int

    @property
    def model(self) -> str | None:
        """The model that the body names."""
        model = self.body.get("model")
        return model if isinstance(model, str) else None

    @property
    def wants_chunks(self) -> bool:
        """Whether the answer is to be streamed."""
        return self.body.get("stream") is True

    @property
    def content(self) -> bytes:
        """The body for the provider; numbers of any size stay as they are."""
        return to_json(self.body)


@dataclass(frozen=True, slots=True)
class Invalid:
    """A delivery that is not a request, and why; it is dead-lettered."""

    envelope: Envelope
    reason: str


def read(
    message: Delivery,
    automation_id: str,
    *,
    deadline_s: float,
    max_body_bytes: int,
    now: float,
) -> Request | Invalid:
    """Read a delivery.

    Args:
        message: from the automation's lane.
        automation_id: whose lane it is, which is the request's identity.
        deadline_s: the automation's own deadline, in seconds from the publish, where the request names none.
        max_body_bytes: the largest body that is accepted.
        now: the time on MongoDB's clock, in seconds since the epoch.
    """
    envelope, problem = _envelope(message, automation_id, now)
    if problem is None and message.type not in {None, "", names.GENERATION_REQUEST}:
        problem = f"type is {message.type!r}, expected {names.GENERATION_REQUEST!r}"
    if problem is None and len(message.body) > max_body_bytes:
        problem = f"the body has {len(message.body)} bytes, more than the {max_body_bytes} that are accepted"
    if problem is None and is_too_intricate(message.body):
        problem = f"the body {TOO_INTRICATE}"
    if problem is not None:
        return Invalid(envelope, problem)
    try:
        body = from_json(message.body, allow_inf_nan=False)
        if not isinstance(body, dict):
            return Invalid(envelope, "expected a JSON object")
        request = GenerationRequest.model_validate(body)
    except ValidationError as error:
        return Invalid(envelope, _first(error))
    except ValueError as error:
        return Invalid(envelope, f"Invalid JSON: {error}")
    model = request.body.get("model")
    if isinstance(model, str) and len(model) > LONGEST_MODEL:
        reason = f"body.model has {len(model)} characters, expected at most {LONGEST_MODEL}"
        return Invalid(envelope, reason)
    deadline = envelope.published_at + deadline_s
    if request.deadline is not None:
        deadline = request.deadline.timestamp()
        if deadline > envelope.received_at + LONGEST_DEADLINE_S:
            return Invalid(envelope, "deadline lies more than 24 h ahead")
    if (expires_at := _expires_at(message, envelope)) is not None:
        deadline = min(deadline, expires_at)
    return Request(
        envelope, request.path, request.body, request.user_id, deadline, estimate_input(request.body)
    )


def _envelope(message: Delivery, automation_id: str, now: float) -> tuple[Envelope, str | None]:
    request_id = message.message_id or f"req-{secrets.token_hex(12)}"
    problem = why_unreadable(message.headers) or why_no_id(request_id) or _why_untimely(message, now)
    reply_to = message.reply_to or None
    if (way := _misrouted(message, automation_id)) is not None:
        problem, reply_to = way, None
    elif reply_to is not None and not names.may_reply_to(automation_id, reply_to):
        problem = f"reply_to is neither direct reply-to nor a queue replies.{automation_id}[.<name>]"
        reply_to = None
    deliveries = (message.headers or {}).get(names.DELIVERY_COUNT_HEADER)
    envelope = Envelope(
        automation_id=automation_id,
        request_id=request_id[:LONGEST_ID],
        correlation_id=message.correlation_id,
        reply_to=reply_to,
        published_at=published_at(message, now),
        received_at=now,
        has_id=bool(message.message_id),
        trace=trace_of(message.headers),
        deliveries=deliveries if isinstance(deliveries, int) and is_count(deliveries, MOST_COUNTED) else 0,
    )
    return envelope, problem


def _misrouted(message: Delivery, automation_id: str) -> str | None:
    """How a delivery of the lane went round RabbitMQ's checks; whose a dead letter is, the broker says."""
    if message.exchange == names.DEAD_EXCHANGE:
        return None
    return misrouted(
        exchange=message.exchange,
        routing_key=message.routing_key,
        headers=message.headers,
        expected=(names.REQUESTS_EXCHANGE, automation_id),
        automation_id=automation_id,
    )


def published_at(message: Delivery, now: float) -> float:
    """When it was published, by the header in milliseconds, else the property in seconds, else just now.

    Args:
        message: that was published.
        now: the time, in seconds since the epoch; none is later. It stands for a time that can't be.
    """
    said = _said(message)
    return now if said is None or not _is_timely(said, now) else min(said, now)


def _why_untimely(message: Delivery, now: float) -> str | None:
    said = _said(message)
    if said is None or _is_timely(said, now):
        return None
    return f"{names.PUBLISHED_AT_HEADER} or timestamp: it was published at {said:.0f} s, expected {TIMELY}"


def _said(message: Delivery) -> float | None:
    header = (message.headers or {}).get(names.PUBLISHED_AT_HEADER)
    if isinstance(header, int):
        return header / 1000
    if isinstance(message.timestamp, datetime):
        return message.timestamp.replace(tzinfo=message.timestamp.tzinfo or UTC).timestamp()
    return None


def _is_timely(published_at: float, now: float) -> bool:
    return now - LONGEST_S <= published_at <= now + FURTHEST_AHEAD_S


def _expires_at(message: Delivery, envelope: Envelope) -> float | None:
    """When the message's own time to live is over; in its queue it counts from the publish there."""
    if not isinstance(message.expiration, int | float):
        return None
    return envelope.published_at + message.expiration


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, without the value, which may be a secret."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]

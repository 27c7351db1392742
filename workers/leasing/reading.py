"""Reads a delivery into a request for a key, or says what is wrong with it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from pydantic import ValidationError

from contracts import names
from contracts.messages import KeyLeaseRequest
from infra.bounds import LONGEST_MODEL
from infra.deliveries import LONGEST_ID, Delivery, why_no_id, why_unreadable
from infra.origin import misrouted
from infra.trace_headers import trace_of
from workers.leasing.sealing import BadPublicKeyError, read_public_key

#: How long a request may wait for a key with room, in seconds; it waits unacknowledged.
PATIENCE_S = 10.0
#: The largest request, in bytes; what is in it is short.
LARGEST_BODY = 64 * 1024
#: The most tokens that a lease may be for.
MOST_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a delivery says beside its body; there even when the body is wrong."""

    automation_id: str
    request_id: str
    correlation_id: str
    #: None: there is nowhere to send an answer.
    reply_to: str | None
    #: Whether the request came with its id, by which it is known when it comes again.
    has_id: bool
    #: Whether it was delivered before: its worker may have died, with or without an answer.
    is_repeated: bool = False
    #: W3C trace context that came with the request.
    trace: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a key that may be granted; durations in seconds."""

    envelope: Envelope
    model: str | None
    tokens: int
    ttl_s: int
    recipient: X25519PublicKey | None
    patience_s: float


@dataclass(frozen=True, slots=True)
class Invalid:
    """A delivery that is not a request for a key, and why; it is dead-lettered."""

    envelope: Envelope
    reason: str


def read(message: Delivery, automation_id: str) -> Request | Invalid:
    """Read a delivery.

    Args:
        message: from the automation's queue of direct key requests.
        automation_id: whose queue it is, which is the request's identity.
    """
    envelope, problem = _envelope(message, automation_id)
    if problem is None and message.type not in {None, "", names.KEY_LEASE_REQUEST}:
        problem = f"type is {message.type!r}, expected {names.KEY_LEASE_REQUEST!r}"
    if problem is None and len(message.body) > LARGEST_BODY:
        problem = f"the body has {len(message.body)} bytes, more than the {LARGEST_BODY} that are accepted"
    if problem is not None:
        return Invalid(envelope, problem)
    try:
        said = KeyLeaseRequest.model_validate_json(message.body)
        if said.model is not None and not 1 <= len(said.model) <= LONGEST_MODEL:
            return Invalid(envelope, f"model: expected 1 to {LONGEST_MODEL} characters")
        if said.estimated_tokens > MOST_TOKENS:
            return Invalid(envelope, f"estimated_tokens: expected at most {MOST_TOKENS}")
        public_key = said.recipient_public_key
        recipient = None if public_key is None else read_public_key(public_key)
    except ValidationError as error:
        return Invalid(envelope, _first(error))
    except BadPublicKeyError as error:
        return Invalid(envelope, f"recipient_public_key: {error}")
    patience_s = PATIENCE_S
    if isinstance(message.expiration, int | float):
        patience_s = min(patience_s, message.expiration)
    return Request(envelope, said.model, said.estimated_tokens, said.ttl_s, recipient, patience_s)


def _envelope(message: Delivery, automation_id: str) -> tuple[Envelope, str | None]:
    request_id = message.message_id or f"req-{secrets.token_hex(12)}"
    problem = why_unreadable(message.headers) or why_no_id(request_id)
    reply_to = message.reply_to or None
    way = misrouted(
        exchange=message.exchange,
        routing_key=message.routing_key,
        headers=message.headers,
        expected=(names.REQUESTS_EXCHANGE, names.lease_queue(automation_id)),
        automation_id=automation_id,
    )
    if way is not None:
        problem, reply_to = way, None
    elif reply_to is None:
        problem = "reply_to is missing: there is nowhere to send a key"
    elif not names.may_reply_to(automation_id, reply_to):
        problem = f"reply_to is neither direct reply-to nor a queue replies.{automation_id}[.<name>]"
        reply_to = None
    envelope = Envelope(
        automation_id=automation_id,
        request_id=request_id[:LONGEST_ID],
        correlation_id=message.correlation_id or request_id[:LONGEST_ID],
        reply_to=reply_to,
        has_id=bool(message.message_id),
        is_repeated=bool(message.redelivered),
        trace=trace_of(message.headers),
    )
    return envelope, problem


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, without the value."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]

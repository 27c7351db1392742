"""Builders of what many unit tests need: what a test does not name has a calm value."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from contracts.messages import Outcome, UsageRecorded
from infra.deliveries import Delivery
from infra.mongo import Document
from infra.prices import Cost
from infra.vault import Sealed
from workers.accounting.ledger import row_of
from workers.generation.reading import Envelope
from workers.generation.result import AttemptRecord
from workers.keys.key import Key

#: A Tuesday's noon, and the same in seconds since the epoch.
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
NOW = NOON.timestamp()


def key_document(**changes: Any) -> Document:
    """A key's document as it stands after it was added."""
    return {
        "_id": "key-1",
        "automation_id": "billing-bot",
        "alias": "Primary",
        "base_url": "https://provider.test/v1",
        "secret": Sealed("m1", b"nonce", b"ciphertext").document(),
        "limits": {
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "tokens_per_day": None,
            "max_in_flight": None,
        },
        "status": "active",
        "status_reason": "added",
        "status_until": None,
        "status_since": NOON,
        **changes,
    }


def make_key(**changes: Any) -> Key:
    """An idle, healthy key without limits, with these fields changed."""
    return replace(Key.from_document(key_document(), NOW), **changes)


def usage_recorded(**changes: Any) -> UsageRecorded:
    """The event of one good call."""
    fields = {
        "event_id": "req-1:1",
        "request_id": "req-1",
        "automation_id": "billing-bot",
        "user_id": "u-42",
        "key_id": "key-1",
        "key_alias": "Primary",
        "path": "/chat/completions",
        "model": "gpt-4o-mini",
        "outcome": Outcome.OK,
        "http_status": 200,
        "prompt_tokens": 19,
        "completion_tokens": 27,
        "total_tokens": 46,
        "cost_nanousd": 19_050,
        "price_known": True,
        "latency_ms": 803,
        "reserved_tokens": 60,
        "occurred_at": NOON,
    }
    return UsageRecorded.model_validate(fields | changes)


def ledger_row(**changes: Any) -> Document:
    """The ledger row of one good call."""
    return row_of(usage_recorded(**changes), NOON)


def make_envelope(**changes: Any) -> Envelope:
    """What the delivery of a request says beside its body."""
    calm = Envelope(
        automation_id="billing-bot",
        request_id="req-1",
        correlation_id="c-1",
        reply_to="replies.billing-bot",
        published_at=NOW,
        received_at=NOW + 0.012,
    )
    return replace(calm, **changes)


def make_attempt(**changes: Any) -> AttemptRecord:
    """One good attempt."""
    calm = AttemptRecord(
        number=101,
        key_id="key-1",
        key_alias="Primary",
        outcome=Outcome.OK,
        http_status=200,
        error_code=None,
        latency_ms=803,
        reserved_tokens=60,
        model="gpt-4o-mini-2024-07-18",
        occurred_at=NOW,
        cost=Cost(19_050, known=True),
    )
    return replace(calm, **changes)


@dataclass
class _Delivery:
    body: bytes
    message_id: str | None = "req-1"
    content_type: str | None = "application/json"
    correlation_id: str | None = "c-1"
    reply_to: str | None = None
    type: str | None = "generation.request.v1"
    timestamp: datetime | None = None
    expiration: float | None = None
    exchange: str | None = "requests"
    routing_key: str | None = "billing-bot"
    redelivered: bool = False
    headers: dict[str, Any] = field(default_factory=dict)


class DefectError(Exception):
    """A defect of our own."""


@dataclass
class Message(_Delivery):
    """A delivery that says how it was ended; what of that `breaks` names fails."""

    reply_to: str | None = "replies.billing-bot"
    ends: list[str] = field(default_factory=list)
    breaks: frozenset[str] = frozenset()

    async def ack(self) -> None:
        self.ends.append("ack")
        if "ack" in self.breaks:
            raise DefectError

    async def nack(self, *, requeue: bool) -> None:
        assert requeue
        self.ends.append("nack")


def make_delivery(body: bytes, **properties: Any) -> Delivery:
    """A delivery as far as reading it goes."""
    return cast("Delivery", _Delivery(body, **properties))

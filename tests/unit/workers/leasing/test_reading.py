"""A delivery is a request for a key, or says what is wrong with it."""

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.builders import make_delivery
from workers.leasing.reading import PATIENCE_S, Invalid, Request, read

DELIVERY = {
    "type": "key.lease.request.v1",
    "reply_to": "replies.billing-bot",
    "routing_key": "leases.billing-bot",
}


def read_body(body: bytes, **properties: Any) -> Request | Invalid:
    return read(make_delivery(body, **(DELIVERY | properties)), "billing-bot")


def test_what_is_not_said_has_the_contracts_defaults() -> None:
    request = read_body(b"{}")
    assert isinstance(request, Request)
    assert (request.model, request.tokens, request.ttl_s, request.recipient) == (None, 2000, 300, None)
    assert (request.envelope.request_id, request.envelope.correlation_id) == ("req-1", "c-1")
    assert (request.envelope.reply_to, request.envelope.has_id) == ("replies.billing-bot", True)
    assert request.patience_s == PATIENCE_S


def test_everything_that_is_said_is_read() -> None:
    public_key = X25519PrivateKey.generate().public_key()
    encoded = base64.b64encode(public_key.public_bytes_raw()).decode()
    body = f'{{"model": "o3", "estimated_tokens": 5, "ttl_s": 60, "recipient_public_key": "{encoded}"}}'
    request = read_body(body.encode(), expiration=2.5)
    assert isinstance(request, Request)
    assert (request.model, request.tokens, request.ttl_s, request.patience_s) == ("o3", 5, 60, 2.5)
    assert request.recipient is not None
    assert request.recipient.public_bytes_raw() == public_key.public_bytes_raw()


def test_a_request_without_an_id_gets_one_and_is_answered_under_it() -> None:
    request = read_body(b"{}", message_id=None, correlation_id=None)
    assert not request.envelope.has_id
    assert request.envelope.correlation_id == request.envelope.request_id


@pytest.mark.parametrize(
    ("body", "properties", "reason"),
    [
        (b"{", {}, "Invalid JSON"),
        (b"[]", {}, "Input should be an object"),
        (b'{"modle": "o3"}', {}, "modle: Extra inputs"),
        (b'{"model": ""}', {}, "model: expected 1 to"),
        (b'{"ttl_s": 3601}', {}, "ttl_s: "),
        (b'{"estimated_tokens": -1}', {}, "estimated_tokens: "),
        (b'{"estimated_tokens": 1000000000000000000000}', {}, "estimated_tokens: expected at most"),
        (b'{"recipient_public_key": "AAAA"}', {}, "recipient_public_key: expected base64 of 32 bytes"),
        (b"{}", {"type": "generation.request.v1"}, "type is"),
        (b"{}", {"message_id": "m" * 129}, "message_id has 129 characters"),
        (b"{}", {"message_id": "m\n"}, "message_id has control characters"),
        (b"{}", {"headers": {"x-keyway-undecodable": {"reason": "type is not UTF-8"}}}, "type is not UTF-8"),
        (b"{}" + b" " * 65536, {}, "the body has 65538 bytes"),
        (b"{}", {"exchange": "replies.other-bot.tunnel"}, "it came by exchange"),
        (b"{}", {"routing_key": "other-bot"}, "it came with routing key"),
        (b"{}", {"reply_to": None}, "reply_to is missing"),
        (b"{}", {"reply_to": "replies.another-bot"}, "reply_to is neither"),
    ],
)
def test_a_wrong_delivery_says_what_is_wrong(body: bytes, properties: dict[str, Any], reason: str) -> None:
    invalid = read_body(body, **properties)
    assert isinstance(invalid, Invalid)
    assert invalid.reason.startswith(reason)


def test_nothing_is_sent_to_an_address_that_is_anothers() -> None:
    invalid = read_body(b"{}", reply_to="replies.another-bot")
    assert invalid.envelope.reply_to is None

"""Direct key requests and their answer."""

import pytest
from pydantic import ValidationError

from contracts.messages import KeyLease, KeyLeaseRequest


def test_a_lease_may_be_asked_for_with_nothing_but_defaults() -> None:
    asked = KeyLeaseRequest.model_validate_json(b"{}")
    assert (asked.model, asked.estimated_tokens, asked.ttl_s, asked.recipient_public_key) == (
        None,
        2000,
        300,
        None,
    )


@pytest.mark.parametrize(
    "body", [b'{"ttl_s": 0}', b'{"ttl_s": 3601}', b'{"estimated_tokens": -1}', b'{"ttl": 60}']
)
def test_a_lease_request_that_breaks_the_contract_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationError):
        KeyLeaseRequest.model_validate_json(body)


def test_a_leased_key_does_not_show_in_logs() -> None:
    lease = KeyLease.model_validate(
        {
            "lease_id": "l-1",
            "key_alias": "Primary",
            "api_key": "sk-secret",
            "base_url": "https://provider.test/v1",
            "expires_at": "2026-11-24T10:05:00Z",
            "requests": 5,
            "tokens": 2000,
        }
    )
    assert "sk-secret" not in f"{lease!r} {lease}"
    assert lease.api_key is not None
    assert lease.api_key.get_secret_value() == "sk-secret"

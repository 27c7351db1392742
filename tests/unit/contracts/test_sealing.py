"""Sealed API keys open for their recipient and their lease, and for nobody else."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from contracts.sealing import SUITE, Recipient, info


def seal(text: str, public_key: str, lease_id: str, purpose: bytes | None = None) -> str:
    key = X25519PublicKey.from_public_bytes(base64.b64decode(public_key))
    return base64.b64encode(SUITE.encrypt(text.encode(), key, purpose or info(lease_id))).decode()


def test_what_is_sealed_to_a_recipient_opens() -> None:
    recipient = Recipient()
    assert len(base64.b64decode(recipient.public_key)) == 32
    assert recipient.open(seal("sk-1", recipient.public_key, "l-1"), "l-1") == "sk-1"


def test_it_opens_for_no_other_lease_recipient_or_purpose_and_not_when_changed() -> None:
    recipient = Recipient()
    sealed = seal("sk-1", recipient.public_key, "l-1")
    changed = base64.b64encode(base64.b64decode(sealed)[:-1] + b"x").decode()
    for who, text, lease_id in (
        (recipient, sealed, "l-2"),
        (Recipient(), sealed, "l-1"),
        (recipient, seal("sk-1", recipient.public_key, "l-1", b"other"), "l-1"),
        (recipient, changed, "l-1"),
        (recipient, "not base64!", "l-1"),
        (recipient, "", "l-1"),
    ):
        with pytest.raises(ValueError, match="can't be opened with this key") as raised:
            who.open(text, lease_id)
        assert "sk-1" not in str(raised.value)


def test_each_recipient_has_a_key_of_its_own() -> None:
    assert Recipient().public_key != Recipient().public_key

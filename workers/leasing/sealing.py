"""Seals an API key to its recipient: HPKE (RFC 9180), base mode, X25519, HKDF-SHA256, AES-256-GCM.

`info` is `keyway key.lease.v1 <lease id>`, so that what is sealed for one lease opens as no other's. The
result is `enc || ciphertext`.
"""

import base64
import binascii

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from pydantic import SecretStr

from contracts.sealing import SUITE, info

PUBLIC_KEY_BYTES = 32


class BadPublicKeyError(Exception):
    """It is no X25519 public key, or one that nothing can be sealed to."""


def read_public_key(text: str) -> X25519PublicKey:
    """A recipient's key from its base64.

    Raises:
        BadPublicKeyError: it is none, or of low order, so that anybody could open what is sealed to it.
    """
    try:
        raw = base64.b64decode(text, validate=True)
        if len(raw) != PUBLIC_KEY_BYTES:
            raise BadPublicKeyError(f"expected base64 of {PUBLIC_KEY_BYTES} bytes, not of {len(raw)}")
        key = X25519PublicKey.from_public_bytes(raw)
        SUITE.encrypt(b"", key)
    except (binascii.Error, ValueError):
        raise BadPublicKeyError("expected the base64 of an X25519 public key") from None
    return key


def seal(api_key: SecretStr, recipient: X25519PublicKey, lease_id: str) -> str:
    """Encrypt an API key for a recipient.

    Returns:
        Base64 of `enc || ciphertext`.
    """
    sealed = SUITE.encrypt(api_key.get_secret_value().encode(), recipient, info(lease_id))
    return base64.b64encode(sealed).decode()

"""Opening API keys that are sealed to their recipient: HPKE (RFC 9180). It needs the extra `direct`."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def info(lease_id: str) -> bytes:
    """HPKE's `info`: what is sealed, and for which lease, so that it opens as no other's."""
    return f"keyway key.lease.v1 {lease_id}".encode()


class Recipient:
    """Who can open what is sealed to `public_key`; made anew for each lease, and kept nowhere."""

    def __init__(self) -> None:
        self._private_key = X25519PrivateKey.generate()

    @property
    def public_key(self) -> str:
        """The X25519 public key, in base64."""
        return base64.b64encode(self._private_key.public_key().public_bytes_raw()).decode()

    def open(self, sealed: str, lease_id: str) -> str:
        """Open a sealed API key.

        Args:
            sealed: the encapsulated key and the ciphertext, together in base64.
            lease_id: the lease that it was sealed for.

        Raises:
            ValueError: it was sealed to somebody else or for another lease, or it was changed.
        """
        try:
            ciphertext = base64.b64decode(sealed, validate=True)
            return SUITE.decrypt(ciphertext, self._private_key, info(lease_id)).decode()
        except (InvalidTag, binascii.Error, ValueError):
            raise ValueError("the sealed API key can't be opened with this key") from None

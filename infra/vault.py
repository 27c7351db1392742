"""Secrets at rest: AES-256-GCM under one of several master keys.

Each ciphertext has a fresh 96-bit nonce (NIST SP 800-38D) and is bound by its additional data to the document
that it stands in, so that it can't be moved to another one.
"""

import base64
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from infra.errors import SettingsError, VaultError

NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Sealed:
    """A ciphertext as it stands in the database."""

    master_key: str
    nonce: bytes
    ciphertext: bytes

    def document(self) -> dict[str, str | bytes]:
        """The fields for MongoDB."""
        return {"master_key": self.master_key, "nonce": self.nonce, "ciphertext": self.ciphertext}

    @classmethod
    def from_document(cls, document: Mapping[str, str | bytes]) -> Self:
        """Read what `document()` wrote."""
        return cls(
            master_key=str(document["master_key"]),
            nonce=bytes(document["nonce"]),  # type: ignore[arg-type]  # Binary is bytes
            ciphertext=bytes(document["ciphertext"]),  # type: ignore[arg-type]  # the same
        )


class Vault:
    """Seals and opens secrets. The first master key seals; every one of them opens."""

    def __init__(self, master_keys: Mapping[str, SecretStr]) -> None:
        """Take the master keys, base64 of 32 bytes each, by id.

        Raises:
            SettingsError: there is none.
        """
        if not master_keys:
            raise SettingsError(
                "KEYWAY_MASTER_KEYS: missing; expected `id:base64,…` with 32 bytes each, "
                "make one with `openssl rand -base64 32`"
            )
        raw = {key_id: base64.b64decode(key.get_secret_value()) for key_id, key in master_keys.items()}
        self._ciphers = {key_id: AESGCM(key) for key_id, key in raw.items()}
        self._current = next(iter(raw))
        self._fingerprint_keys = {
            key_id: HKDF(algorithm=SHA256(), length=32, salt=None, info=b"keyway fingerprint").derive(key)
            for key_id, key in raw.items()
        }

    @property
    def current(self) -> str:
        """Id of the master key that seals."""
        return self._current

    def seal(self, plaintext: bytes, context: str) -> Sealed:
        """Encrypt.

        Args:
            plaintext: what to encrypt.
            context: where it will stand, such as `key:<automation>:<key id>`; needed again to open it.
        """
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = self._ciphers[self._current].encrypt(nonce, plaintext, context.encode())
        return Sealed(self._current, nonce, ciphertext)

    def open(self, sealed: Sealed, context: str) -> bytes:
        """Decrypt.

        Raises:
            VaultError: the master key is not among ours, or the ciphertext was changed or moved.
        """
        cipher = self._ciphers.get(sealed.master_key)
        if cipher is None:
            raise VaultError(f"master key {sealed.master_key!r} is not in KEYWAY_MASTER_KEYS")
        try:
            return cipher.decrypt(sealed.nonce, sealed.ciphertext, context.encode())
        except (InvalidTag, ValueError):
            raise VaultError(f"can't open {context}: changed, moved, or another master key's") from None

    def reseal(self, sealed: Sealed, context: str) -> Sealed | None:
        """Encrypt again under the current master key; None when it stands under it already.

        Raises:
            VaultError: as in `open`.
        """
        if sealed.master_key == self._current:
            return None
        return self.seal(self.open(sealed, context), context)

    def fingerprint(self, secret: SecretStr) -> str:
        """A keyed hash that finds the same secret again and says nothing about it."""
        return self._fingerprint(secret, self._current)

    def fingerprints(self, secret: SecretStr) -> list[str]:
        """The fingerprint under each master key: what stands in the database may be of an older one."""
        return [self._fingerprint(secret, key_id) for key_id in self._fingerprint_keys]

    def _fingerprint(self, secret: SecretStr, key_id: str) -> str:
        return hmac.new(
            self._fingerprint_keys[key_id], secret.get_secret_value().encode(), sha256
        ).hexdigest()

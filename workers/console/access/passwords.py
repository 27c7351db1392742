"""Passwords of operators: argon2id, with the parameters of RFC 9106's second recommendation."""

import asyncio
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY
from pydantic import SecretStr

from infra.errors import PlatformError

#: NIST SP 800-63B asks for at least 8 characters, and recommends 15.
SHORTEST, LONGEST = 12, 256
#: Hashes that are computed at a time: each takes 64 MiB.
AT_A_TIME = 2

_hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
_slots = asyncio.Semaphore(AT_A_TIME)
#: What an unknown operator's password is compared with, so that it takes as long as a known one's.
_NOBODYS = _hasher.hash(secrets.token_urlsafe())


def one_time_password() -> SecretStr:
    """A password to sign in with once."""
    return SecretStr(secrets.token_urlsafe(15))


def check_new(password: SecretStr, username: str) -> None:
    """Refuse a password that is too easy to guess.

    Raises:
        PlatformError: it is too short, too long, or the username.
    """
    text = password.get_secret_value()
    if not SHORTEST <= len(text) <= LONGEST:
        raise PlatformError(f"a password has {SHORTEST} to {LONGEST} characters")
    if username.lower() in text.lower() or len(set(text)) < SHORTEST // 3:
        raise PlatformError("the password is too easy to guess")


async def hash_of(password: SecretStr) -> str:
    """The hash to keep of a password."""
    async with _slots:
        return await asyncio.to_thread(_hasher.hash, password.get_secret_value())


async def matches(password_hash: str | None, password: SecretStr) -> bool:
    """Whether it is the password; without a hash it takes as long, and is not."""
    async with _slots:
        same = await asyncio.to_thread(_verify, password_hash or _NOBODYS, password.get_secret_value())
    return same and password_hash is not None


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False

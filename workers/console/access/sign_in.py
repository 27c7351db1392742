"""Signing in: a password, and a bound on how often it may be guessed."""

import structlog
from pydantic import SecretStr

from infra.errors import PlatformError
from infra.mongo import Mongo
from workers.console.access.failures import Failures
from workers.console.access.passwords import matches
from workers.console.access.sessions import Sessions

log = structlog.get_logger()

#: Failures for one username, and from one address, before sign-in has to wait.
MOST_OF_USERNAME, MOST_OF_ADDRESS = 5, 20


class SignInRefusedError(PlatformError):
    """The username or the password is wrong; which of them, is not said."""


class SignIn:
    """Checks passwords, as long as not too many were wrong."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo
        self._failures = Failures(mongo)

    async def sign_in(self, username: str, password: SecretStr, address: str) -> SecretStr:
        """Sign in from an address.

        Returns:
            The session, for the browser's cookie.

        Raises:
            SignInRefusedError: the username or the password is wrong, or the operator is switched off.
            TooManyFailuresError: too many failures lately.
        """
        await self.confirm(username, password, address)
        return await Sessions(self._mongo).start(username)

    async def confirm(self, username: str, password: SecretStr, address: str) -> None:
        """Check a password.

        Raises:
            SignInRefusedError: the username or the password is wrong, or the operator is switched off.
            TooManyFailuresError: too many failures lately.
        """
        subjects = {f"username:{username[:64]}": MOST_OF_USERNAME, f"address:{address}": MOST_OF_ADDRESS}
        for subject, most in subjects.items():
            await self._failures.count(subject, most)
        operator = await self._mongo.operators.find_one({"_id": username})
        password_hash = operator["password_hash"] if operator and operator["enabled"] else None
        if not await matches(password_hash, password):
            log.warning("sign_in_refused", address=address)
            raise SignInRefusedError("the username or the password is wrong")
        await self._failures.forget(f"username:{username[:64]}")
        await self._failures.take_back(f"address:{address}")

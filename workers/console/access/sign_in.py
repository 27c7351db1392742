"""Signing in: a password, and a bound on how often it may be guessed."""

import math
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import SecretStr

from infra.errors import PlatformError
from infra.mongo import Mongo
from workers.console.access.passwords import matches
from workers.console.access.sessions import Sessions

log = structlog.get_logger()

#: Failures for one username, and from one address, before sign-in has to wait.
MOST_OF_USERNAME, MOST_OF_ADDRESS = 5, 20
#: For how long a failure counts.
WINDOW = timedelta(minutes=15)


class SignInRefusedError(PlatformError):
    """The username or the password is wrong; which of them, is not said."""


class TooManyFailuresError(PlatformError):
    """Too many failures lately.

    Attributes:
        retry_after_s: when to try again, in seconds.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many failed attempts; try again in {-(-retry_after_s // 60)} min")
        self.retry_after_s = retry_after_s


class SignIn:
    """Checks passwords, and counts failures in MongoDB, for all processes of the console together."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

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
            await self._count(subject, most)
        operator = await self._mongo.operators.find_one({"_id": username})
        password_hash = operator["password_hash"] if operator and operator["enabled"] else None
        if not await matches(password_hash, password):
            log.warning("sign_in_refused", address=address)
            raise SignInRefusedError("the username or the password is wrong")
        await self._mongo.sign_in_failures.delete_one({"_id": f"username:{username[:64]}"})
        await self._mongo.sign_in_failures.update_one(
            {"_id": f"address:{address}", "count": {"$gt": 0}}, {"$inc": {"count": -1}}
        )

    async def _count(self, subject: str, most: int) -> None:
        """Count an attempt before its password is looked at, so that many at once are counted too."""
        now = datetime.now(UTC)
        ended = {"_id": subject, "expires_at": {"$lte": now}}
        await self._mongo.sign_in_failures.delete_one(ended)
        counted = await self._mongo.sign_in_failures.find_one_and_update(
            {"_id": subject},
            {"$inc": {"count": 1}, "$setOnInsert": {"expires_at": now + WINDOW}},
            upsert=True,
            return_document=True,
        )
        if counted["count"] > most:
            left_s = (counted["expires_at"] - now).total_seconds()
            raise TooManyFailuresError(max(1, math.ceil(left_s)))

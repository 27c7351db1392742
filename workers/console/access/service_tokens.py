"""Whether a service token is an automation's: RabbitMQ is asked, whose users' passwords they are."""

import asyncio
import hmac
import secrets
import time
from hashlib import sha256
from weakref import WeakValueDictionary

import structlog
from aio_pika import connect
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)
from pydantic import SecretStr
from yarl import URL

from contracts import names
from infra.errors import BrokerError, PlatformError
from infra.mongo import Mongo
from infra.settings import Settings
from workers.console.access.failures import Failures

log = structlog.get_logger()

#: A token that was right is taken for so long without asking again, in seconds.
TRUSTED_S = 60.0
#: Tokens that are trusted at a time.
MOST_TRUSTED = 10_000
#: Failures for one automation from one address, and from one address in all.
MOST_OF_AUTOMATION, MOST_OF_ADDRESS = 10, 100
#: How long RabbitMQ may take, in seconds, and how many times it is asked at once.
ASK_TIMEOUT_S = 10.0
AT_ONCE = 8
REFUSED = (AuthenticationError, ProbableAuthenticationError, ConnectionNotAllowed)


class ServiceTokenRefusedError(PlatformError):
    """The token is not the automation's."""


class ServiceTokenDoor:
    """Checks service tokens for calls over HTTP, with the door that messages go through."""

    def __init__(self, settings: Settings, mongo: Mongo) -> None:
        """Take where RabbitMQ is, and the database."""
        self._url = URL(settings.amqp_url.get_secret_value())
        self._mongo = mongo
        self._failures = Failures(mongo)
        self._hash_key = secrets.token_bytes(32)
        self._trusted: dict[bytes, float] = {}
        self._checking: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def check(self, automation_id: str, token: SecretStr, address: str) -> None:
        """Let an automation in, or not.

        Args:
            automation_id: who it says that it is.
            token: its service token; while it rotates, either of the two.
            address: where the call comes from.

        Raises:
            ServiceTokenRefusedError: the token is another's or nobody's, or there is no such automation.
            TooManyFailuresError: too many failures lately.
            BrokerError: RabbitMQ can't be reached.
            PyMongoError: MongoDB is away or refused.
        """
        text = f"{automation_id}\0{token.get_secret_value()}"
        identity = hmac.digest(self._hash_key, text.encode(), sha256)
        lock = self._checking.setdefault(identity, asyncio.Lock())
        async with lock:
            if self._trusted.get(identity, 0.0) > time.monotonic():
                return
            await self._ask(automation_id, token, address)
            self._trust(identity)

    async def _ask(self, automation_id: str, token: SecretStr, address: str) -> None:
        subjects = {
            f"automation:{automation_id}:{address}": MOST_OF_AUTOMATION,
            f"door:{address}": MOST_OF_ADDRESS,
        }
        for subject, most in subjects.items():
            await self._failures.count(subject, most)
        is_known = await self._mongo.automations.find_one({"_id": {"$eq": automation_id}}, {"_id": 1})
        if not is_known or not await self._is_password(automation_id, token):
            log.warning("service_token_refused", automation_id=automation_id, address=address)
            raise ServiceTokenRefusedError(f"that is not the service token of {automation_id}")
        for subject in subjects:
            await self._failures.take_back(subject)

    async def _is_password(self, automation_id: str, token: SecretStr) -> bool:
        async with self._slots:
            for user in (automation_id, names.next_user(automation_id)):
                if await self._opens(user, token):
                    return True
        return False

    async def _opens(self, user: str, token: SecretStr) -> bool:
        url = self._url.with_user(user).with_password(token.get_secret_value())
        try:
            async with await connect(url.update_query(name="keyway door"), timeout=ASK_TIMEOUT_S):
                return True
        except REFUSED:
            return False
        except (AMQPError, OSError, TimeoutError) as error:
            raise BrokerError(f"no connection to RabbitMQ ({type(error).__name__})") from None

    def _trust(self, identity: bytes) -> None:
        now = time.monotonic()
        if len(self._trusted) >= MOST_TRUSTED:
            self._trusted = {known: until for known, until in self._trusted.items() if until > now}
        if len(self._trusted) < MOST_TRUSTED:
            self._trusted[identity] = now + TRUSTED_S

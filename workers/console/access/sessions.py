"""Sessions of operators who have signed in, and tokens of their scripts: kept as hashes only."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta

from pydantic import SecretStr

from infra.errors import NotFoundError
from infra.mongo import Document, Mongo
from workers.console.access.operators import Operators, Role

#: A session ends after so long without a request, and at the latest so long after its start.
IDLE = timedelta(hours=2)
LONGEST = timedelta(hours=12)
#: A session's last request is written down at most this often.
TOUCH = timedelta(minutes=1)
#: How a script's token begins, so that it is known for one where it turns up.
TOKEN_PREFIX = "kwt_"  # noqa: S105  # no secret
TOKEN_BYTES = 32
#: Which sessions live, and which of them has to have its last request written down, on MongoDB's clock.
_MS = timedelta(milliseconds=1)
_LIVES: Document = {
    "$and": [
        {"$gt": ["$expires_at", "$$NOW"]},
        {"$gt": [{"$add": ["$created_at", LONGEST // _MS]}, "$$NOW"]},
    ]
}
_IS_QUIET: Document = {"$gt": ["$$NOW", {"$add": ["$seen_at", TOUCH // _MS]}]}
_SEEN: Document = {"$set": {"seen_at": "$$NOW", "expires_at": {"$add": ["$$NOW", IDLE // _MS]}}}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: an operator, in a browser or by a script."""

    username: str
    role: Role
    must_change_password: bool
    #: What a request of a browser that changes something has to bear; None for a script.
    csrf_token: str | None

    @property
    def actor(self) -> str:
        """How changes name who made them."""
        return f"console:{self.username}"


class Sessions:
    """Who is signed in."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def start(self, username: str) -> SecretStr:
        """Sign an operator in: a session of a new name, whatever the browser had before.

        Returns:
            What the browser's cookie holds.
        """
        name = secrets.token_urlsafe(TOKEN_BYTES)
        now = await self._mongo.server_time()
        await self._mongo.sessions.insert_one(
            {
                "_id": _hash(name),
                "username": username,
                "csrf_token": secrets.token_urlsafe(TOKEN_BYTES),
                "created_at": now,
                "seen_at": now,
                "expires_at": now + IDLE,
            }
        )
        return SecretStr(name)

    async def caller(self, name: str, *, active: bool = True) -> Caller | None:
        """Who has this session; None where there is none, or it has ended.

        Args:
            name: what the browser's cookie holds.
            active: whether somebody is at work, which keeps the session; a page that is merely open does not.
        """
        found = await self._mongo.sessions.find_one(
            {"_id": _hash(name), "$expr": _LIVES}, {"username": 1, "csrf_token": 1, "is_quiet": _IS_QUIET}
        )
        if found is None:
            return None
        if active and found["is_quiet"]:
            await self._mongo.sessions.update_one({"_id": found["_id"]}, [_SEEN])
        return await _caller(self._mongo, found["username"], None, found["csrf_token"])

    async def end(self, name: str) -> None:
        """Sign out."""
        await self._mongo.sessions.delete_one({"_id": _hash(name)})


class ApiTokens:
    """Tokens by which an operator's scripts call the HTTP API."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def add(self, username: str, label: str, role: Role, *, days: int | None) -> tuple[str, SecretStr]:
        """Make a token.

        Args:
            username: whose it is; it ends with them.
            label: what it is for.
            role: what it may do, if its operator may.
            days: how long it is valid; None: until it is removed.

        Returns:
            Its id, and the token, which is kept nowhere.

        Raises:
            NotFoundError: there is no such operator.
        """
        await Operators(self._mongo).find(username)
        token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        token_id = secrets.token_hex(6)
        now = await self._mongo.server_time()
        await self._mongo.api_tokens.insert_one(
            {
                "_id": token_id,
                "hash": _hash(token),
                "username": username,
                "label": label,
                "role": role.value,
                "created_at": now,
                "expires_at": None if days is None else now + timedelta(days=days),
            }
        )
        return token_id, SecretStr(token)

    async def caller(self, token: str) -> Caller | None:
        """Whose script it is; None where there is no such token, or it is no longer valid."""
        lives = [{"expires_at": None}, {"$expr": {"$gt": ["$expires_at", "$$NOW"]}}]
        found = await self._mongo.api_tokens.find_one({"hash": _hash(token), "$or": lives})
        if found is None:
            return None
        return await _caller(self._mongo, found["username"], Role(found["role"]), None)

    async def list(self) -> list[Document]:
        """All tokens, without their hashes."""
        return [token async for token in self._mongo.api_tokens.find({}, {"hash": 0}).sort("created_at", 1)]

    async def remove(self, token_id: str) -> None:
        """Take a token back.

        Raises:
            NotFoundError: there is no such token.
        """
        removed = await self._mongo.api_tokens.delete_one({"_id": token_id})
        if not removed.deleted_count:
            raise NotFoundError(f"no token {token_id}")


def is_same_token(expected: str, given: str | None) -> bool:
    """Whether a token is the one that is expected, in a time that says nothing of it."""
    return given is not None and hmac.compare_digest(expected.encode(), given.encode())


async def _caller(mongo: Mongo, username: str, most: Role | None, csrf_token: str | None) -> Caller | None:
    operator = await mongo.operators.find_one({"_id": username}, {"password_hash": 0})
    if operator is None or not operator["enabled"]:
        return None
    role = Role(operator["role"])
    if most is Role.VIEWER:
        role = most
    return Caller(username, role, operator["must_change_password"], csrf_token)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()

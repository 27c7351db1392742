"""Operators: who may look at Keyway's console (viewer), and who may change things (admin)."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import SecretStr

from infra.errors import ConflictError, NotFoundError, PlatformError
from infra.mongo import Document, DuplicateKeyError, Mongo
from infra.stored_documents import StoredDocuments
from workers.console.access.passwords import check_new, hash_of, one_time_password

#: The operator that `keyway init` makes.
FIRST = "admin"
_USERNAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}")


class Role(StrEnum):
    """What an operator may do."""

    VIEWER = "viewer"
    ADMIN = "admin"

    def allows(self, needed: "Role") -> bool:
        """Whether this role may do what needs the other."""
        return self is Role.ADMIN or needed is Role.VIEWER


@dataclass(frozen=True, slots=True)
class Operator:
    """A person who may sign in."""

    username: str
    role: Role
    enabled: bool
    #: Whether the password is a one-time password, to be changed before anything else.
    must_change_password: bool
    created_at: datetime

    @classmethod
    def from_document(cls, document: Document) -> "Operator":
        """Read an operator's document."""
        return cls(
            document["_id"],
            Role(document["role"]),
            document["enabled"],
            document["must_change_password"],
            document["created_at"],
        )


_DOCUMENTS = StoredDocuments("operators", Operator)


class Operators:
    """The operators that there are."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def ensure_first(self) -> SecretStr | None:
        """Make the first operator, an admin, where there is none.

        Returns:
            Its one-time password, which is kept nowhere; None where there are operators already.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        if await self._mongo.operators.find_one({}, {"_id": 1}) is not None:
            return None
        try:
            return await self.add(FIRST, Role.ADMIN)
        except ConflictError:
            return None

    async def add(self, username: str, role: Role) -> SecretStr:
        """Add an operator.

        Returns:
            A one-time password.

        Raises:
            PlatformError: the username is not a valid one.
            ConflictError: it is taken.
        """
        if _USERNAME.fullmatch(username) is None:
            raise PlatformError(f"{username!r} can't be a username: expected 1 to 63 of a-z, 0-9, . _ @ -")
        password = one_time_password()
        document = {
            "_id": username,
            "role": role.value,
            "enabled": True,
            "password_hash": await hash_of(password),
            "must_change_password": True,
            "created_at": await self._mongo.server_time(),
        }
        try:
            await self._mongo.operators.insert_one(document)
        except DuplicateKeyError:
            raise ConflictError(f"there is an operator {username} already") from None
        return password

    async def find(self, username: str) -> Operator:
        """One operator.

        Raises:
            NotFoundError: there is no such operator.
        """
        document = await self._mongo.operators.find_one({"_id": username}, {"password_hash": 0})
        if document is None:
            raise NotFoundError(f"no operator {username}")
        return Operator.from_document(document)

    async def list(self) -> list[Operator]:
        """All operators, by name, without those whose document can't be read, which are logged."""
        found = self._mongo.operators.find({}, {"password_hash": 0}).sort("_id", 1)
        return _DOCUMENTS.readable([document async for document in found], Operator.from_document)

    async def reset_password(self, username: str) -> SecretStr:
        """Give an operator a new one-time password; whoever is signed in with the old one is signed out.

        Raises:
            NotFoundError: there is no such operator.
        """
        password = one_time_password()
        await self._change(username, {"password_hash": await hash_of(password), "must_change_password": True})
        await self._end_sessions(username)
        return password

    async def set_password(self, username: str, password: SecretStr) -> None:
        """Take the password that an operator has chosen; other sessions of theirs end.

        Raises:
            PlatformError: it is too easy to guess.
            NotFoundError: there is no such operator.
        """
        check_new(password, username)
        await self._change(
            username, {"password_hash": await hash_of(password), "must_change_password": False}
        )
        await self._end_sessions(username)

    async def change(self, username: str, *, role: Role | None = None, enabled: bool | None = None) -> None:
        """Change what an operator may do; one admin who may sign in has to be left.

        Raises:
            NotFoundError: there is no such operator.
            ConflictError: it is the last admin.
        """
        loses = (role is not None and role is not Role.ADMIN) or enabled is False
        if loses and await self._is_last_admin(username):
            raise ConflictError(f"{username} is the last admin")
        changes: Document = {}
        if role is not None:
            changes["role"] = role.value
        if enabled is not None:
            changes["enabled"] = enabled
        await self._change(username, changes)
        if loses:
            await self._end_sessions(username)

    async def _is_last_admin(self, username: str) -> bool:
        admins = {"role": Role.ADMIN.value, "enabled": True}
        found = [document["_id"] async for document in self._mongo.operators.find(admins, {"_id": 1})]
        return found == [username]

    async def _change(self, username: str, changes: Document) -> None:
        updated = await self._mongo.operators.update_one({"_id": username}, {"$set": changes})
        if not updated.matched_count:
            raise NotFoundError(f"no operator {username}")

    async def _end_sessions(self, username: str) -> None:
        await self._mongo.sessions.delete_many({"username": username})

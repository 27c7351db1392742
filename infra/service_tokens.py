"""Service tokens: the RabbitMQ users of an automation, and how a new token takes over from the old one.

RabbitMQ keeps one password a user, so the new token is at first the password of a second user with the same
permissions (docs/decisions/0014). Each step may be repeated; whatever stops between two of them, the old
token works, or the new one, or both.
"""

import secrets
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from contracts import names
from infra.errors import ConflictError, NotFoundError
from infra.management import Management
from infra.mongo import Mongo
from infra.outbox import announce

#: Bytes of randomness in a service token.
TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation that has begun."""

    #: The new token; it is kept nowhere.
    token: SecretStr
    #: The RabbitMQ user to use it with until the rotation is finished; after that, the automation's id.
    user: str
    #: Whether a rotation was under way, whose token this one replaces.
    replaced: bool


class Finish(Enum):
    """What is left to do of a rotation."""

    #: Give the automation's own user the new token; then what `REMOVE_NEXT` says.
    HAND_OVER = "hand over"
    #: Both users have the new token: remove the second.
    REMOVE_NEXT = "remove next"
    #: No rotation is under way, or its beginning was never told to anybody.
    NOTHING = "nothing"
    #: A rotation has begun, and its second user is gone.
    LOST = "lost"


def what_is_left(*, begun: bool, own_hash: str | None, next_hash: str | None) -> Finish:
    """Decide how to finish a rotation, from wherever it was left.

    Args:
        begun: whether the automation's document says that a rotation is under way.
        own_hash: password hash of the automation's own user; None: there is no such user.
        next_hash: the same of its second user.
    """
    if begun:
        return Finish.LOST if next_hash is None else Finish.HAND_OVER
    return Finish.REMOVE_NEXT if next_hash is not None and next_hash == own_hash else Finish.NOTHING


class ServiceTokens:
    """Makes and rotates the service tokens of automations."""

    def __init__(self, mongo: Mongo, admin: Management) -> None:
        self._mongo = mongo
        self._admin = admin

    async def create(self, automation_id: str) -> SecretStr:
        """Make an automation's RabbitMQ user, or give the one that is there a new token.

        Returns:
            The service token.

        Raises:
            BrokerError: RabbitMQ refused.
        """
        return await self._make_user(automation_id, automation_id)

    async def begin_rotation(self, automation_id: str, *, actor: str) -> Rotation:
        """Give an automation a second token; the first one works on, and no connection is closed.

        Where a rotation is under way, its token is replaced, and connections with that one are closed.

        Raises:
            NotFoundError: there is no such automation.
            BrokerError: RabbitMQ refused; the token in use works on.
        """
        user = names.next_user(automation_id)
        # Not under way until its token can be told: else finishing might hand over one that nobody knows.
        before = await self._mongo.automations.find_one_and_update(
            {"_id": automation_id}, {"$unset": {"rotation": ""}}
        )
        if before is None:
            raise _no_automation(automation_id)
        token = await self._make_user(user, automation_id)
        await self._close_connections(user)
        await self._mongo.automations.update_one(
            {"_id": automation_id},
            {"$set": {"rotation.actor": actor}, "$currentDate": {"rotation.since": True}},
        )
        await announce(self._mongo, automation_id, "token rotation begun", actor)
        return Rotation(token, user, replaced="rotation" in before)

    async def finish_rotation(self, automation_id: str, *, actor: str) -> int:
        """Let the new token replace the old one, and close the connections that were opened with the old one.

        Connections of the second user are closed too, since it is removed; they come back with the same token
        under the automation's id.

        Returns:
            How many connections of the old token were closed.

        Raises:
            NotFoundError: there is no such automation.
            ConflictError: no rotation is under way.
            BrokerError: RabbitMQ refused; it may be repeated.
        """
        automation = await self._mongo.automations.find_one({"_id": automation_id}, {"rotation": 1})
        if automation is None:
            raise _no_automation(automation_id)
        following = names.next_user(automation_id)
        own_user, next_user = await self._user(automation_id), await self._user(following)
        left = what_is_left(
            begun="rotation" in automation,
            own_hash=None if own_user is None else own_user["password_hash"],
            next_hash=None if next_user is None else next_user["password_hash"],
        )
        if left is Finish.NOTHING:
            raise ConflictError(f"no rotation of {automation_id}'s token is under way")
        if left is Finish.LOST:
            raise ConflictError(
                f"RabbitMQ has no user {following} any more, so the new token is lost; begin again"
            )
        closed = 0
        if left is Finish.HAND_OVER and next_user is not None:
            kept = {name: next_user[name] for name in ("password_hash", "hashing_algorithm")}
            await self._admin.call("PUT", f"users/{quote(automation_id, safe='')}", {**kept, "tags": ""})
            closed = await self._close_connections(automation_id)
            await self._mongo.automations.update_one({"_id": automation_id}, {"$unset": {"rotation": ""}})
        await self._admin.call("DELETE", f"users/{quote(following, safe='')}", may_be_missing=True)
        await announce(self._mongo, automation_id, "token rotation finished", actor)
        return closed

    async def _make_user(self, user: str, automation_id: str) -> SecretStr:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        quoted = quote(user, safe="")
        await self._admin.call("PUT", f"users/{quoted}", {"password": token, "tags": ""})
        await self._admin.call("PUT", f"permissions/{{vhost}}/{quoted}", names.permissions(automation_id))
        for exchange, pattern in names.topic_permissions(automation_id).items():
            body = {"exchange": exchange, "write": pattern, "read": "^$"}
            await self._admin.call("PUT", f"topic-permissions/{{vhost}}/{quoted}", body)
        return SecretStr(token)

    async def _user(self, user: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = await self._admin.call(
            "GET", f"users/{quote(user, safe='')}", may_be_missing=True
        )
        return found

    async def _close_connections(self, user: str) -> int:
        """Close all connections of a user, and say how many there were."""
        path = f"connections/username/{quote(user, safe='')}"
        there = await self._admin.call("GET", path)
        await self._admin.call("DELETE", path)
        return len(there)


def _no_automation(automation_id: str) -> NotFoundError:
    return NotFoundError(f"no automation {automation_id}; see `keyway automations list`")

"""An automation's identity: its RabbitMQ user, permissions and lane, and its document."""

from collections.abc import Mapping
from typing import Any

from aio_pika.abc import AbstractRobustConnection
from pydantic import SecretStr

from contracts import names
from contracts.connection import ChannelLostError
from contracts.queue_consumer import said_of
from infra.broker import lane, lease_queue
from infra.errors import BrokerError, ConflictError, NotFoundError, PlatformError
from infra.management import Management
from infra.mongo import Document, DuplicateKeyError, Mongo
from infra.outbox import announce
from infra.queue_declaration import DeclaredQueue, declare_queue
from infra.service_tokens import ServiceTokens
from infra.settings import Settings

#: What an automation's document says where the operator says nothing.
AUTOMATION_DEFAULTS: Document = {
    "enabled": True,
    "paused": False,
    "deadline_s": 600,
    "call_timeout_s": 300,
    "max_in_flight": None,
    "allow_leases": False,
}


class Provisioner:
    """Adds and switches automations."""

    def __init__(
        self, mongo: Mongo, admin: Management, connection: AbstractRobustConnection, settings: Settings
    ) -> None:
        self._mongo = mongo
        self.tokens = ServiceTokens(mongo, admin)
        self._connection = connection
        self._settings = settings

    async def add(
        self, automation_id: str, *, actor: str, settings: Mapping[str, int | None] | None = None
    ) -> SecretStr:
        """Add an automation: its document, its lane, its RabbitMQ user.

        The document comes last, so that what workers see is complete; a repeat after a failure goes on.

        Args:
            automation_id: its id.
            actor: who adds it.
            settings: what differs from `AUTOMATION_DEFAULTS`.

        Returns:
            The service token, which is the user's password and is kept nowhere else.

        Raises:
            PlatformError: the id is not a valid one.
            ConflictError: there is such an automation.
            BrokerError: RabbitMQ refused.
        """
        if not names.is_automation_id(automation_id):
            raise PlatformError(
                f"{automation_id!r} can't be an automation's id: "
                "expected 1 to 63 of a-z, 0-9 and -, the first not a -"
            )
        if await self._mongo.automations.find_one({"_id": automation_id}, {"_id": 1}):
            raise ConflictError(f"automation {automation_id} is there already")
        await self._declare(lane(automation_id, self._settings))
        await self._declare(lease_queue(automation_id, self._settings))
        token = await self.tokens.create(automation_id)
        now = await self._mongo.server_time()
        try:
            await self._mongo.automations.insert_one(
                {"_id": automation_id, **AUTOMATION_DEFAULTS, **(settings or {}), "created_at": now}
            )
        except DuplicateKeyError:
            raise ConflictError(f"automation {automation_id} is there already") from None
        await announce(self._mongo, automation_id, "added", actor)
        return token

    async def set_enabled(self, automation_id: str, *, enabled: bool, actor: str) -> None:
        """Switch an automation on or off; off, its requests are answered with `automation_disabled`.

        Raises:
            NotFoundError: there is no such automation.
        """
        await self._change(automation_id, {"enabled": enabled}, "enabled" if enabled else "disabled", actor)

    async def set_paused(self, automation_id: str, *, paused: bool, actor: str) -> None:
        """Have workers leave an automation's lane alone, or serve it again; what is in hand is finished.

        Requests wait meanwhile, and their deadlines pass.

        Raises:
            NotFoundError: there is no such automation.
        """
        await self._change(automation_id, {"paused": paused}, "paused" if paused else "resumed", actor)

    async def change(self, automation_id: str, settings: Mapping[str, int | None], *, actor: str) -> None:
        """Change some of an automation's settings (`AUTOMATION_DEFAULTS`).

        Raises:
            NotFoundError: there is no such automation.
        """
        await self._change(automation_id, settings, f"settings changed: {', '.join(settings)}", actor)

    async def _declare(self, queue: DeclaredQueue) -> None:
        try:
            await declare_queue(self._connection, queue)
        except ChannelLostError as error:
            raise BrokerError(f"RabbitMQ refuses the queue {queue.name}: {said_of(error)}") from None

    async def _change(self, automation_id: str, fields: Mapping[str, Any], what: str, actor: str) -> None:
        updated = await self._mongo.automations.update_one({"_id": automation_id}, {"$set": dict(fields)})
        if not updated.matched_count:
            raise NotFoundError(f"no automation {automation_id}; see `keyway automations list`")
        await announce(self._mongo, automation_id, what, actor)

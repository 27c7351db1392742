"""The audit log: who changed what, from what to what; never a secret."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from infra.mongo import Document, Mongo

#: Names of fields whose values are never written down, whoever passes them.
SECRETS = frozenset({"api_key", "password", "service_token", "secret", "token", "body"})
HIDDEN = "[hidden]"


class AuditLog:
    """Writes and reads the log."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def write(
        self,
        actor: str,
        action: str,
        target: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Note a change.

        Args:
            actor: who made it.
            action: what was done, such as `key.disabled`.
            target: to what, such as `billing-bot/Primary`.
            before: what was changed, as it was.
            after: the same, as it is now.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        await self._mongo.audit.insert_one(
            {
                "at": await self._mongo.server_time(),
                "actor": actor,
                "action": action,
                "target": target,
                "before": without_secrets(before),
                "after": without_secrets(after),
            }
        )

    async def read(
        self, *, target: str | None = None, actor: str | None = None, before: datetime | None, most: int
    ) -> list[Document]:
        """The latest entries first, of one target or actor, from before a time."""
        query: Document = {}
        if target is not None:
            query["target"] = target
        if actor is not None:
            query["actor"] = actor
        if before is not None:
            query["at"] = {"$lt": before}
        found = self._mongo.audit.find(query).sort("at", -1).limit(most)
        return [entry async for entry in found]


def without_secrets(fields: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The fields, with the values of those that may be secrets hidden."""
    if fields is None:
        return None
    return {name: HIDDEN if name in SECRETS else value for name, value in fields.items()}

"""Automations as operators see them: settings, keys, the processes that are alive, a token that rotates."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from infra.errors import NotFoundError
from infra.living_processes import living
from infra.mongo import Document, Mongo


@dataclass(frozen=True, slots=True)
class Process:
    """A process of an automation that is alive, by its heartbeats."""

    host: str
    version: str
    started_at: datetime
    in_flight: int
    last_heartbeat_at: datetime


@dataclass(frozen=True, slots=True)
class Rotation:
    """A token that rotates."""

    since: datetime
    actor: str


@dataclass(frozen=True, slots=True)
class AutomationView:
    """An automation; `keys` counts them by status, durations are in seconds."""

    automation_id: str
    enabled: bool
    paused: bool
    deadline_s: int
    call_timeout_s: int
    max_in_flight: int | None
    allow_leases: bool
    created_at: datetime
    keys: dict[str, int]
    processes: list[Process]
    last_heartbeat_at: datetime | None
    rotation: Rotation | None


class AutomationList:
    """Reads automations."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def read(self) -> list[AutomationView]:
        """All automations, by id.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        return await self._views({})

    async def find(self, automation_id: str) -> AutomationView:
        """One automation.

        Raises:
            NotFoundError: there is no such automation.
            PyMongoError: MongoDB is away or refused.
        """
        for view in await self._views({"_id": {"$eq": automation_id}}):
            return view
        raise NotFoundError(f"no automation {automation_id}; see `keyway automations list`")

    async def _views(self, query: Document) -> list[AutomationView]:
        documents = [found async for found in self._mongo.automations.find(query, {"held": 0}).sort("_id", 1)]
        counts = await self._key_counts([document["_id"] for document in documents])
        processes = await living(self._mongo)
        return [
            _view(document, counts.get(document["_id"], {}), processes.get(document["_id"], ()))
            for document in documents
        ]

    async def _key_counts(self, automation_ids: list[str]) -> dict[str, dict[str, int]]:
        identity = {"a": "$automation_id", "s": "$status"}
        stages: list[Document] = [
            {"$match": {"automation_id": {"$in": automation_ids}}},
            {"$group": {"_id": identity, "count": {"$sum": 1}}},
        ]
        counts: dict[str, dict[str, int]] = {}
        async for group in self._mongo.keys.aggregate(stages):
            counts.setdefault(group["_id"]["a"], {})[group["_id"]["s"]] = group["count"]
        return counts


def _view(document: Document, keys: dict[str, int], processes: Iterable[Document]) -> AutomationView:
    rotation = document.get("rotation")
    return AutomationView(
        automation_id=document["_id"],
        enabled=document["enabled"],
        paused=document.get("paused", False),
        deadline_s=document["deadline_s"],
        call_timeout_s=document["call_timeout_s"],
        max_in_flight=document.get("max_in_flight"),
        allow_leases=document.get("allow_leases", False),
        created_at=document["created_at"],
        keys=keys,
        processes=[Process(**process) for process in processes],
        last_heartbeat_at=document.get("last_heartbeat_at"),
        rotation=None if rotation is None else Rotation(**rotation),
    )

"""Automations as operators see them: settings, keys, the processes that are alive, a token that rotates."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pydantic import AwareDatetime, ValidationError

from infra.automation_documents import AutomationDocuments, AutomationId, problem_of, read_automation
from infra.errors import NotFoundError, PlatformError
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
class StoredAutomation:
    """What is read of an automation's document for operators; durations are in seconds."""

    id: AutomationId
    enabled: bool
    deadline_s: int
    call_timeout_s: int
    created_at: AwareDatetime
    paused: bool = False
    max_in_flight: int | None = None
    allow_leases: bool = False
    last_heartbeat_at: AwareDatetime | None = None
    rotation: Rotation | None = None


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
        self._documents = AutomationDocuments(StoredAutomation)

    async def read(self) -> list[AutomationView]:
        """All automations, by id, without those whose document can't be read.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        documents = [found async for found in self._mongo.automations.find({}, {"held": 0}).sort("_id", 1)]
        return await self._views(self._documents.readable(documents))

    async def find(self, automation_id: str) -> AutomationView:
        """One automation.

        Raises:
            NotFoundError: there is no such automation.
            PlatformError: its document can't be read.
            PyMongoError: MongoDB is away or refused.
        """
        document = await self._mongo.automations.find_one({"_id": {"$eq": automation_id}}, {"held": 0})
        if document is None:
            raise NotFoundError(f"no automation {automation_id}; see `keyway automations list`")
        try:
            automation = read_automation(StoredAutomation, document)
        except ValidationError as error:
            field, reason = problem_of(error)
            raise PlatformError(f"automation {automation_id} can't be read: {field}: {reason}") from None
        (view,) = await self._views([automation])
        return view

    async def _views(self, automations: list[StoredAutomation]) -> list[AutomationView]:
        counts = await self._key_counts([automation.id for automation in automations])
        processes = await living(self._mongo)
        return [
            _view(automation, counts.get(automation.id, {}), processes.get(automation.id, ()))
            for automation in automations
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


def _view(
    automation: StoredAutomation, keys: dict[str, int], processes: Iterable[Document]
) -> AutomationView:
    return AutomationView(
        automation_id=automation.id,
        enabled=automation.enabled,
        paused=automation.paused,
        deadline_s=automation.deadline_s,
        call_timeout_s=automation.call_timeout_s,
        max_in_flight=automation.max_in_flight,
        allow_leases=automation.allow_leases,
        created_at=automation.created_at,
        keys=keys,
        processes=[Process(**process) for process in processes],
        last_heartbeat_at=automation.last_heartbeat_at,
        rotation=automation.rotation,
    )

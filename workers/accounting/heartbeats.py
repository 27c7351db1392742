"""Who is alive: what automations' heartbeats say of their processes, one document for each.

Heartbeats are noted in memory and written together every second, so that neither many of them nor a MongoDB
that is away holds up the books. What can't be written is dropped, since the next one is on its way. A process
was seen when its heartbeat was written, on MongoDB's clock, so that nobody's clock has to be right.
"""

import time
from collections.abc import Sequence
from datetime import UTC

import structlog

from contracts.messages import Heartbeat
from infra.bulk_writes import write_all
from infra.isolated_writes import write_isolated
from infra.mongo import Document, Mongo, UpdateOne
from infra.mongo_errors import may_pass

log = structlog.get_logger()

#: Seconds between writes.
WRITE_EVERY_S = 1.0
#: The most processes of one automation whose heartbeats are kept; those of further ones are dropped.
MOST_PROCESSES = 1000
#: A process is among them until so long after its last heartbeat, as long as its document lasts, in seconds.
KNOWN_S = 3600.0
#: Has a document say when it was written, on MongoDB's clock.
NOW: Document = {"$currentDate": {"at": True}}


class Heartbeats:
    """Keeps the last sign of life of each process, and of each automation."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._waiting: dict[str, Document] = {}
        #: When each process was heard last, in seconds on a monotonic clock, by automation; the latest last.
        self._known: dict[str, dict[str, float]] = {}

    def note(self, automation_id: str, heartbeat: Heartbeat) -> None:
        """Remember a heartbeat until the next write.

        Args:
            automation_id: whose, as the broker vouches for it in the routing key.
            heartbeat: what it says.
        """
        process = seen_process(automation_id, heartbeat)
        if self._is_among_the_most(automation_id, process["_id"], time.monotonic()):
            self._waiting[process["_id"]] = process

    def _is_among_the_most(self, automation_id: str, process_id: str, now: float) -> bool:
        """Whether a process is one of those of its automation that are kept."""
        known = self._known.setdefault(automation_id, {})
        while known and now - known[oldest := next(iter(known))] > KNOWN_S:
            del known[oldest]
        if known.pop(process_id, None) is None and len(known) >= MOST_PROCESSES:
            return False
        known[process_id] = now
        return True

    async def write(self) -> None:
        """Write what was noted.

        Raises:
            PyMongoError: MongoDB is away; what was noted is forgotten.
        """
        noted, self._waiting = self._waiting, {}
        if not noted:
            return
        for answer in await write_isolated(self._write, list(noted.values())):
            if isinstance(answer, Exception):
                if may_pass(answer):
                    raise answer
                log.error("heartbeat_refused", error=type(answer).__name__)

    async def _write(self, noted: Sequence[Document]) -> Sequence[Exception | None]:
        processes = [
            UpdateOne(
                {"_id": process["_id"]},
                {"$set": {name: process[name] for name in process if name != "_id"}, **NOW},
                upsert=True,
            )
            for process in noted
        ]
        automations = [
            UpdateOne({"_id": automation_id}, {"$currentDate": {"last_heartbeat_at": True}})
            for automation_id in {process["automation_id"] for process in noted}
        ]
        failed = await write_all(self._mongo.heartbeats, processes)
        await write_all(self._mongo.automations, automations)
        return [failed.get(index) for index in range(len(noted))]


def seen_process(automation_id: str, heartbeat: Heartbeat) -> Document:
    """The document of the process that sent a heartbeat; its `_id` is the same for all of its heartbeats.

    A process is told from all others by whose it is, where it runs, and since when.
    """
    started_at = heartbeat.started_at.astimezone(UTC)
    return {
        "_id": f"{automation_id} {started_at.isoformat()} {heartbeat.host}",
        "automation_id": automation_id,
        "host": heartbeat.host,
        "version": heartbeat.version,
        "started_at": started_at,
        "in_flight": heartbeat.in_flight,
    }

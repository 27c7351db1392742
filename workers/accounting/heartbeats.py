"""Who is alive: what automations' heartbeats say of their processes, one document for each.

Heartbeats are noted in memory and written together every second, so that neither many of them nor a MongoDB
that is away holds up the books. What can't be written is dropped, since the next one is on its way. A process
was seen when its heartbeat was written, on MongoDB's clock, so that nobody's clock has to be right.
"""

from datetime import UTC, datetime

import structlog

from contracts.messages import Heartbeat
from infra.mongo import Document, Mongo, UpdateOne

log = structlog.get_logger()

#: Seconds between writes.
WRITE_EVERY_S = 1.0
#: Processes whose heartbeats wait to be written; those of further ones are dropped.
MAX_WAITING = 10_000
#: Characters of a host or version that are kept.
MAX_TEXT = 200
#: Between these, a start can be written to MongoDB.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
MAX_IN_FLIGHT = 2**31 - 1


class Heartbeats:
    """Keeps the last sign of life of each process, and of each automation."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._waiting: dict[str, Document] = {}

    def note(self, automation_id: str, heartbeat: Heartbeat) -> None:
        """Remember a heartbeat until the next write.

        Args:
            automation_id: whose, as the broker vouches for it in the routing key.
            heartbeat: what it says.
        """
        process = seen_process(automation_id, heartbeat)
        if process["_id"] in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[process["_id"]] = process

    async def write(self) -> None:
        """Write what was noted.

        Raises:
            PyMongoError: MongoDB refused or is away; what was noted is forgotten.
        """
        noted, self._waiting = self._waiting, {}
        if not noted:
            return
        now: Document = {"$currentDate": {"at": True}}
        processes = [
            UpdateOne({"_id": process.pop("_id")}, {"$set": process, **now}, upsert=True)
            for process in noted.values()
        ]
        automations = [
            UpdateOne({"_id": automation_id}, {"$currentDate": {"last_heartbeat_at": True}})
            for automation_id in {process["automation_id"] for process in noted.values()}
        ]
        await self._mongo.heartbeats.bulk_write(processes, ordered=False)
        await self._mongo.automations.bulk_write(automations, ordered=False)


def seen_process(automation_id: str, heartbeat: Heartbeat) -> Document:
    """The document of the process that sent a heartbeat; its `_id` is the same for all of its heartbeats.

    A process is told from all others by whose it is, where it runs, and since when.
    """
    host = heartbeat.host[:MAX_TEXT]
    started_at = min(max(heartbeat.started_at, EARLIEST), LATEST).astimezone(UTC)
    return {
        "_id": f"{automation_id} {started_at.isoformat()} {host}",
        "automation_id": automation_id,
        "host": host,
        "version": heartbeat.version[:MAX_TEXT],
        "started_at": started_at,
        "in_flight": min(heartbeat.in_flight, MAX_IN_FLIGHT),
    }

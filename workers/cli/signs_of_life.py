"""Which processes of an automation are alive, by their heartbeats."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from infra.mongo import Document, Mongo
from workers.cli.key_facts import moment

#: A process is alive whose heartbeat is no older than this; clients send one every 30 s.
ALIVE = timedelta(seconds=90)


async def living(mongo: Mongo) -> dict[str, list[Document]]:
    """The processes that are alive, on MongoDB's clock: a list for each automation, the oldest first."""
    since = await mongo.server_time() - ALIVE
    processes: dict[str, list[Document]] = {}
    async for process in mongo.heartbeats.find({"at": {"$gte": since}}).sort("started_at", 1):
        processes.setdefault(process["automation_id"], []).append(
            {
                "host": process["host"],
                "version": process["version"],
                "started_at": process["started_at"],
                "in_flight": process["in_flight"],
                "last_heartbeat_at": process["at"],
            }
        )
    return processes


def signs_of_life(processes: Sequence[Document], last_heartbeat_at: datetime | None) -> str:
    """What people are told: how many processes, since when, which versions, what is in flight.

    Args:
        processes: those that are alive, as `living` tells of them.
        last_heartbeat_at: the last heartbeat of any process, alive or not.
    """
    if not processes:
        return "never" if last_heartbeat_at is None else f"last seen {moment(last_heartbeat_at)}"
    count = "1 process" if len(processes) == 1 else f"{len(processes)} processes"
    versions = sorted({process["version"] for process in processes})
    return (
        f"{count} since {moment(min(process['started_at'] for process in processes))}, "
        f"version {', '.join(versions)}, {sum(process['in_flight'] for process in processes)} in flight"
    )

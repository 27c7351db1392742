"""Which processes are alive: automations', by their heartbeats, and our own workers."""

from datetime import timedelta

from infra.mongo import Document, Mongo

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


async def living_workers(mongo: Mongo) -> int:
    """How many generation workers are alive, on MongoDB's clock.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    alive = {"kind": "generation", "$expr": {"$gt": ["$alive_until", "$$NOW"]}}
    return await mongo.workers.count_documents(alive)

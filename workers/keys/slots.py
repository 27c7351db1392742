"""An automation's own cap on calls in flight, over all of its keys and all workers.

Only an automation that has one costs the extra update, one for a batch of calls.
"""

from infra.mongo import Document, Mongo, ReturnDocument
from workers.keys.expressions import held_plus, live_holds


def take_pipeline(worker_id: str, wanted: int) -> list[Document]:
    """The update that takes as many of the wanted slots as are free."""
    free = {"$subtract": ["$max_in_flight", {"$sum": "$held.n"}]}
    return [
        {"$set": {"held": live_holds()}},
        {"$set": {"granted": {"$max": [0, {"$min": [wanted, {"$ifNull": [free, wanted]}]}]}}},
        {"$set": {"held": held_plus(worker_id, "$granted", 0)}},
    ]


async def take_slots(mongo: Mongo, automation_id: str, worker_id: str, wanted: int) -> int:
    """Take slots for calls that are about to start.

    Returns:
        How many there were, at most `wanted`.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    document = await mongo.automations_fast.find_one_and_update(
        {"_id": automation_id},
        take_pipeline(worker_id, wanted),
        projection={"granted": 1},
        return_document=ReturnDocument.AFTER,
    )
    return 0 if document is None else int(document["granted"])


async def give_slots(mongo: Mongo, automation_id: str, worker_id: str, count: int) -> None:
    """Give slots back whose calls have ended or never began.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    stages: list[Document] = [
        {"$set": {"held": live_holds()}},
        {"$set": {"held": held_plus(worker_id, -count, 0)}},
    ]
    await mongo.automations_fast.update_one({"_id": automation_id}, stages)

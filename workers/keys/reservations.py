"""Reservations in MongoDB: the update that admits calls to a key, on the server's clock.

One `find_one_and_update` admits as many calls of a batch as fit, in their order, and says how many. It
touches a single document, so that any number of workers may run it side by side; `settlements.py` gives back.
"""

from collections.abc import Sequence
from itertools import accumulate

from infra.mongo import Document, Mongo, ReturnDocument
from workers.keys.expressions import (
    calls_left,
    held_plus,
    is_usable,
    normalise,
    renewed_holds,
    tokens_left,
    window_plus,
)
from workers.keys.key import Key

#: What a worker never needs to see of a key's document.
PROJECTION = {"history": 0, "fingerprint": 0}


def reserve_pipeline(worker_id: str, model: str, token_counts: Sequence[int]) -> list[Document]:
    """The update that admits as many as fit of calls of a model with so many tokens each."""
    totals = [0, *accumulate(token_counts)]
    granted_tokens = {"$arrayElemAt": [{"$literal": totals}, "$granted"]}
    return [
        normalise(),
        {"$set": {"granted": _granted(model, token_counts)}},
        {
            "$set": {
                "window": {
                    "$cond": [
                        {"$gt": ["$granted", 0]},
                        window_plus(model, "$granted", granted_tokens),
                        "$window",
                    ]
                },
                "held": held_plus(worker_id, "$granted", granted_tokens),
                "last_used_at": {"$cond": [{"$gt": ["$granted", 0]}, "$$NOW", "$last_used_at"]},
            }
        },
    ]


def _granted(model: str, token_counts: Sequence[int]) -> Document:
    """How many of the calls fit, first come first served."""
    items = [{"i": i, "t": total} for i, total in enumerate(accumulate(token_counts), start=1)]
    fitting = {
        "$filter": {
            "input": {"$literal": items},
            "cond": {"$and": [{"$lte": ["$$this.i", "$$calls"]}, {"$lte": ["$$this.t", "$$tokens"]}]},
        }
    }
    left = {"calls": calls_left(model), "tokens": tokens_left(model)}
    return {"$cond": [is_usable(), {"$let": {"vars": left, "in": {"$size": fitting}}}, 0]}


async def reserve(
    mongo: Mongo, key_id: str, worker_id: str, model: str, token_counts: Sequence[int]
) -> tuple[int, Key, float] | None:
    """Admit as many as fit of calls of a model with so many tokens each.

    Returns:
        How many were admitted, the key as it is now, and the server's time in seconds; None: no such key.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    document = await mongo.keys_fast.find_one_and_update(
        {"_id": key_id},
        reserve_pipeline(worker_id, model, token_counts),
        projection=PROJECTION,
        return_document=ReturnDocument.AFTER,
    )
    if document is None:
        return None
    now = document["server_time"].timestamp()
    return document["granted"], Key.from_document(document, now), now


async def renew_holds(mongo: Mongo, worker_id: str) -> None:
    """Say that this worker's calls are still under way, so that its holds do not lapse.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    renewed = [{"$set": {"held": renewed_holds(worker_id)}}]
    for collection in (mongo.keys_fast, mongo.automations_fast):
        await collection.update_many({"held.w": worker_id}, renewed)


async def load_keys(mongo: Mongo, automation_id: str) -> tuple[list[Key], float | None]:
    """Every key of an automation, and the server's time in seconds (None where there is no key).

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    stages: list[Document] = [
        {"$match": {"automation_id": automation_id}},
        {"$set": {"server_time": "$$NOW"}},
        {"$unset": list(PROJECTION)},
    ]
    documents = [document async for document in mongo.keys.aggregate(stages)]
    now = documents[0]["server_time"].timestamp() if documents else None
    return [Key.from_document(document, now or 0.0) for document in documents], now

"""Keys of which an automation says that the provider refuses them: the provider itself is asked.

What an automation reports may be untrue, so it changes no key's status; `probes.py` does, where it is right.
"""

from collections.abc import Collection

from infra.mongo import Document, Mongo

#: Keys that are to be checked, and the update with which a worker takes one.
DOUBTED: Document = {"check_at": {"$ne": None}, "status": "active"}
TAKEN: Document = {"$unset": {"check_at": ""}}


async def ask_for_checks(mongo: Mongo, key_ids: Collection[str]) -> None:
    """Have keys that are `active` checked soon, each once.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    active: Document = {"_id": {"$in": list(key_ids)}, "status": "active"}
    await mongo.keys.update_many(active, [{"$set": {"check_at": "$$NOW"}}])

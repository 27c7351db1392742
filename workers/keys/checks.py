"""Keys of which an automation says that the provider refuses them: the provider itself is asked.

What an automation reports may be untrue, so it changes no key's status; `probes.py` does, where it is right.
"""

from collections.abc import Collection

from infra.mongo import Document, Mongo, ReturnDocument
from workers.keys.status import CHANGE_FIELDS


async def ask_for_checks(mongo: Mongo, key_ids: Collection[str]) -> None:
    """Have keys that are `active` checked soon, each once.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    active: Document = {"_id": {"$in": list(key_ids)}, "status": "active"}
    await mongo.keys.update_many(active, [{"$set": {"check_at": "$$NOW"}}])


async def claim_check(mongo: Mongo) -> Document | None:
    """Take a key that is to be checked; no other worker gets it.

    Returns:
        Its document, as far as a check needs it; None: there is none.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    claimed: Document | None = await mongo.keys.find_one_and_update(
        {"check_at": {"$ne": None}, "status": "active"},
        {"$unset": {"check_at": ""}},
        projection={**CHANGE_FIELDS, "base_url": 1, "secret": 1},
        return_document=ReturnDocument.AFTER,
    )
    return claimed

"""Takes keys that are due for something, each by one worker; one that can't be taken stops no other."""

import structlog

from infra.mongo import Document, Mongo, PyMongoError, ReturnDocument
from infra.mongo_errors import may_pass
from workers.keys.status import CHANGE_FIELDS

log = structlog.get_logger()

#: What a worker needs of a key to ask its provider.
FIELDS = {**CHANGE_FIELDS, "base_url": 1, "secret": 1}


class KeyClaims:
    """Claims keys for one worker."""

    def __init__(self, mongo: Mongo) -> None:
        """Make one that knows of no key that can't be taken."""
        self._mongo = mongo
        self._refused: set[str] = set()

    async def take(self, due: Document, taken: Document | list[Document]) -> Document | None:
        """Take one key that is due; no other worker gets it.

        A key whose update MongoDB refuses, such as one that the schema does not allow, is logged once and not
        tried again by this process.

        Args:
            due: which keys are.
            taken: the update after which it no longer is.

        Returns:
            Its document, as far as asking its provider needs it; None: there is none.

        Raises:
            PyMongoError: MongoDB is away.
        """
        while True:
            untried = {**due, "_id": {"$nin": list(self._refused)}}
            if (found := await self._mongo.keys.find_one(untried, {"_id": 1})) is None:
                return None
            try:
                claimed: Document | None = await self._mongo.keys.find_one_and_update(
                    {**due, "_id": found["_id"]},
                    taken,
                    projection=FIELDS,
                    return_document=ReturnDocument.AFTER,
                )
            except PyMongoError as error:
                if may_pass(error):
                    raise
                self._refused.add(found["_id"])
                log.exception("key_not_probed", key_id=found["_id"])
            else:
                if claimed is not None:
                    return claimed

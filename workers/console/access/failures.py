"""How often something may fail before it has to wait: counted in MongoDB, for all consoles together."""

import math
from datetime import timedelta

from infra.errors import PlatformError
from infra.mongo import Document, Mongo

#: For how long a failure counts.
WINDOW = timedelta(minutes=15)
WINDOW_MS = WINDOW // timedelta(milliseconds=1)
_IS_OVER: Document = {"$lte": [{"$ifNull": ["$expires_at", "$$NOW"]}, "$$NOW"]}
#: Counts one more, in a window that begins where none is open.
_ONE_MORE: Document = {
    "$set": {
        "count": {"$cond": [_IS_OVER, 1, {"$add": ["$count", 1]}]},
        "expires_at": {"$cond": [_IS_OVER, {"$add": ["$$NOW", WINDOW_MS]}, "$expires_at"]},
    }
}


class TooManyFailuresError(PlatformError):
    """Too many failures lately.

    Attributes:
        retry_after_s: when to try again, in seconds.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many failed attempts; try again in {-(-retry_after_s // 60)} min")
        self.retry_after_s = retry_after_s


class Failures:
    """Counts attempts before they are looked at, so that many at once are counted too."""

    def __init__(self, mongo: Mongo) -> None:
        """Take the database."""
        self._mongo = mongo

    async def count(self, subject: str, most: int) -> None:
        """Count an attempt.

        Args:
            subject: whose, or from where.
            most: how many may fail within `WINDOW`.

        Raises:
            TooManyFailuresError: too many have.
            PyMongoError: MongoDB is away or refused.
        """
        counted = await self._mongo.sign_in_failures.find_one_and_update(
            {"_id": subject},
            [_ONE_MORE],
            projection={"count": 1, "left_ms": {"$subtract": ["$expires_at", "$$NOW"]}},
            upsert=True,
            return_document=True,
        )
        if counted["count"] > most:
            raise TooManyFailuresError(max(1, math.ceil(counted["left_ms"] / 1000)))

    async def forget(self, subject: str) -> None:
        """An attempt succeeded: so none before it counts any more."""
        await self._mongo.sign_in_failures.delete_one({"_id": subject})

    async def take_back(self, subject: str) -> None:
        """An attempt succeeded: it does not count, those before it do."""
        await self._mongo.sign_in_failures.update_one(
            {"_id": subject, "count": {"$gt": 0}}, {"$inc": {"count": -1}}
        )

"""Duties: what one process does at a time, of all that could; another takes over when it is gone."""

import asyncio
import time

import structlog

from infra.mongo import Document, Mongo, PyMongoError, ReturnDocument

log = structlog.get_logger()

#: Seconds after its last sign of life until a process has lost its duty.
LAPSE_S = 15.0
#: Signs of life in that time.
SIGNS = 3


class Duty:
    """A process's claim to a duty; keep it alive with `keep()`."""

    def __init__(self, mongo: Mongo, name: str, holder: str, *, lapse_s: float = LAPSE_S) -> None:
        """Take the database, what the duty is called, who this process is, and when it lapses, in seconds."""
        self._duties = mongo.duties
        self._name = name
        self._holder = holder
        self._lapse_s = lapse_s
        self._held_until = float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether this process has the duty now."""
        return time.monotonic() < self._held_until

    async def claim(self) -> bool:
        """Take the duty if nobody has it, or hold it for longer.

        Returns:
            Whether this process has it.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        asked_at = time.monotonic()
        is_ours = {
            "$or": [
                {"$eq": [{"$type": "$holder"}, "missing"]},
                {"$eq": ["$holder", self._holder]},
                {"$lt": ["$until", "$$NOW"]},
            ]
        }
        until = {"$add": ["$$NOW", int(self._lapse_s * 1000)]}
        stages: list[Document] = [
            {
                "$set": {
                    "holder": {"$cond": [is_ours, self._holder, "$holder"]},
                    "until": {"$cond": [is_ours, until, "$until"]},
                }
            }
        ]
        duty = await self._duties.find_one_and_update(
            {"_id": self._name}, stages, upsert=True, return_document=ReturnDocument.AFTER
        )
        has_it = duty["holder"] == self._holder
        self._held_until = asked_at + self._lapse_s if has_it else float("-inf")
        return self.is_held

    async def keep(self) -> None:
        """Take the duty whenever it is free, and hold it, until cancelled."""
        while True:
            try:
                await self.claim()
            except PyMongoError as error:
                log.warning("duty_not_claimed", duty=self._name, error=type(error).__name__)
            await asyncio.sleep(self._lapse_s / SIGNS)

    async def give_up(self) -> None:
        """Leave the duty to another process, at once.

        Raises:
            PyMongoError: MongoDB is away or refused; it lapses by itself.
        """
        self._held_until = float("-inf")
        await self._duties.delete_one({"_id": self._name, "holder": self._holder})

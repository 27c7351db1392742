"""Duties: what one process does at a time, of all that could; another takes over when it is gone."""

import time

from infra.mongo import Document, Mongo, ReturnDocument

#: Seconds after its last sign of life until a process has lost its duty.
LAPSE_S = 15.0
#: Signs of life in that time.
SIGNS = 3


class Duty:
    """A process's claim to a duty, for as long as it calls `claim` every `claim_every_s`."""

    def __init__(self, mongo: Mongo, name: str, holder: str, *, lapse_s: float = LAPSE_S) -> None:
        """Take the database, what the duty is called, who this process is, and when it lapses, in seconds."""
        self._duties = mongo.duties
        self._name = name
        self._holder = holder
        self._lapse_s = lapse_s
        self._held_until = float("-inf")

    @property
    def claim_every_s(self) -> float:
        """How often to claim the duty, in seconds."""
        return self._lapse_s / SIGNS

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

    async def give_up(self) -> None:
        """Leave the duty to another process, at once.

        Raises:
            PyMongoError: MongoDB is away or refused; it lapses by itself.
        """
        self._held_until = float("-inf")
        await self._duties.delete_one({"_id": self._name, "holder": self._holder})

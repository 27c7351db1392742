"""Holds: the names under which this worker has reserved calls in the documents of keys and automations."""

from collections import Counter

from infra.mongo import Mongo
from workers.keys.reservations import renew_holds


class Holds:
    """How many calls this worker holds, by hold.

    Args:
        mongo: where they are.
        worker_id: the first hold's name.
    """

    def __init__(self, mongo: Mongo, worker_id: str) -> None:
        self._mongo = mongo
        self.name = worker_id
        self._calls: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        """How many calls are held."""
        return self._calls.total()

    def take(self, hold: str, calls: int) -> None:
        """Count calls that were reserved under a hold."""
        self._calls[hold] += calls

    def give(self, hold: str, calls: int) -> None:
        """Count calls that are held no longer."""
        self._calls[hold] -= calls

    def anew(self) -> None:
        """Hold under another name from now on: nobody knows what a write that failed has left behind.

        What it left lapses with the old name, which is renewed no longer than its calls are under way.
        """
        name, _, number = self.name.partition("#")
        self.name = f"{name}#{int(number or 1) + 1}"

    async def renew(self) -> None:
        """Keep the holds that have calls from lapsing.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        self._calls = +self._calls
        for hold in list(self._calls):
            await renew_holds(self._mongo, hold)

"""Holds: the names under which this worker has something reserved in documents that all workers share."""

from collections import Counter
from collections.abc import Awaitable, Callable


class Holds:
    """How many calls this worker holds, by hold.

    Args:
        worker_id: the first hold's name.
        renew: has what stands under a hold in the documents lapse later.
    """

    def __init__(self, worker_id: str, renew: Callable[[str], Awaitable[None]]) -> None:
        self.name = worker_id
        self._renew = renew
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
            await self._renew(hold)

"""Queues as RabbitMQ tells of them: what waits, how fast it comes and goes, how long the oldest waits.

RabbitMQ does not say when the head of a quorum queue was published, and a look at it would count as a
delivery. But a queue is first in, first out: what waits is what was published last, so that the age of its
head follows from how many had been published when, which is noted every few seconds.
"""

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts import names
from infra.management import Management

#: Seconds between notes of how much was published.
NOTE_EVERY_S = 10.0
#: A list of queues is good for so long, in seconds.
FRESH_S = 1.5
#: Notes that are kept of a lane; older ones are thinned out.
MOST_NOTES = 256
_LANE_PREFIX = names.lane_queue("")
QUEUES = (
    "queues/{vhost}?columns=name,messages_ready,messages_unacknowledged,consumers,message_stats.publish,"
    "message_stats.publish_details.rate,message_stats.deliver_get_details.rate"
)


@dataclass(frozen=True, slots=True)
class QueueState:
    """What RabbitMQ says of a queue; rates are per second, over its last few seconds."""

    waiting: int
    in_hand: int
    consumers: int
    published: int
    publish_rate: float
    deliver_rate: float

    @classmethod
    def from_management(cls, queue: Mapping[str, Any]) -> "QueueState":
        """Read the management API's answer; a queue that is new has no statistics."""
        stats = queue.get("message_stats") or {}
        return cls(
            queue.get("messages_ready", 0),
            queue.get("messages_unacknowledged", 0),
            queue.get("consumers", 0),
            stats.get("publish", 0),
            stats.get("publish_details", {}).get("rate", 0.0),
            stats.get("deliver_get_details", {}).get("rate", 0.0),
        )


@dataclass(frozen=True, slots=True)
class Age:
    """For how long the oldest of what waits has been waiting, in seconds."""

    seconds: float
    #: Whether it may be longer, since it was there before anybody took notes.
    at_least: bool


@dataclass(slots=True)
class Publications:
    """How many messages had been published into a lane, at which times."""

    times: deque[float] = field(default_factory=deque)
    counts: deque[int] = field(default_factory=deque)

    def note(self, published: int, at: float) -> None:
        """Take a note; one that says nothing new moves the last one.

        Args:
            published: how many ever; where it is fewer than before, the broker has begun to count anew.
            at: when, in seconds on any clock that only goes forward.
        """
        if self.counts and published < self.counts[-1]:
            self.times.clear()
            self.counts.clear()
        if len(self.counts) > 1 and self.counts[-1] == self.counts[-2] == published:
            self.times[-1] = at
            return
        self.times.append(at)
        self.counts.append(published)
        if len(self.counts) > MOST_NOTES:
            for index in range(len(self.counts) // 2 - 1, 0, -2):
                del self.times[index], self.counts[index]

    def age_of_oldest(self, waiting: int, now: float) -> Age | None:
        """The age of the oldest of so many messages that were published last; None: none waits."""
        if not waiting or not self.counts:
            return None
        before_oldest = self.counts[-1] - waiting
        # The last note that was taken before it was published.
        index = bisect_right(self.counts, before_oldest) - 1
        if index < 0:
            return Age(now - self.times[0], at_least=True)
        return Age(now - self.times[min(index + 1, len(self.times) - 1)], at_least=False)


class QueueWatch:
    """What RabbitMQ says of the queues, asked for at most every `FRESH_S`, and noted every `NOTE_EVERY_S`."""

    def __init__(self, admin: Management) -> None:
        """Take the management API."""
        self._admin = admin
        self._asking = asyncio.Lock()
        self._at = float("-inf")
        self._queues: dict[str, QueueState] = {}
        self._published: dict[str, Publications] = {}

    async def queues(self) -> dict[str, QueueState]:
        """Every queue by its name.

        Raises:
            BrokerError: the management API refuses, or can't be reached.
        """
        async with self._asking:
            if time.monotonic() - self._at > FRESH_S:
                found = await self._admin.call("GET", QUEUES)
                self._at = time.monotonic()
                self._queues = {queue["name"]: QueueState.from_management(queue) for queue in found}
                self._note()
            return self._queues

    def oldest(self, queue: str) -> Age | None:
        """The age of what waits longest in a lane, by what was noted."""
        return self._age(queue, lambda state: state.waiting)

    def oldest_unbooked(self) -> Age | None:
        """The age of the oldest event that is not in the books: what accounting has in hand is not yet."""
        return self._age(names.ACCOUNTING_QUEUE, lambda state: state.waiting + state.in_hand)

    def forget(self) -> None:
        """Ask anew the next time."""
        self._at = float("-inf")

    def _age(self, queue: str, count: Callable[[QueueState], int]) -> Age | None:
        state, published = self._queues.get(queue), self._published.get(queue)
        if state is None or published is None:
            return None
        return published.age_of_oldest(count(state), time.monotonic())

    def _note(self) -> None:
        noted = {
            name: state
            for name, state in self._queues.items()
            if name.startswith(_LANE_PREFIX) or name == names.ACCOUNTING_QUEUE
        }
        self._published = {name: self._published.get(name, Publications()) for name in noted}
        for name, state in noted.items():
            self._published[name].note(state.published, self._at)

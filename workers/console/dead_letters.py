"""Dead letters as operators see them: read by one at a time, since a reader hides what it holds."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from infra.dead_letter_facts import Wanted, everything_of, summary
from infra.dead_letter_queue import dead_letter_queue
from infra.errors import BrokerError, NotFoundError, PlatformError
from infra.mongo import Mongo
from infra.settings import Settings

#: Letters of a list.
MOST_LISTED = 500


@dataclass(frozen=True, slots=True)
class Kept:
    """A letter that could not be replayed, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """What became of letters.

    Attributes:
        done: ids of those that were replayed or dropped.
        kept: those that stayed.
        incomplete: says that RabbitMQ delivered fewer letters than it counted; the others stay as they are.
    """

    done: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    incomplete: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list says of letters (`infra.dead_letter_facts.summary`), the oldest first.

    Attributes:
        letters: that were read.
        incomplete: says that RabbitMQ delivered fewer letters than it counted.
    """

    letters: list[dict[str, Any]]
    incomplete: str | None

    def check(self) -> None:
        """Refuse a part for the whole.

        Raises:
            BrokerError: RabbitMQ delivered fewer letters than it counted.
        """
        if self.incomplete is not None:
            raise BrokerError(self.incomplete)


class DeadLetterDesk:
    """Shows, replays and drops dead letters, for all operators of this console."""

    def __init__(self, settings: Settings, mongo: Mongo) -> None:
        """Take where the queue and the database are."""
        self._settings = settings
        self._mongo = mongo
        self._reading = asyncio.Lock()

    async def list(self, wanted: Wanted, *, most: int = MOST_LISTED) -> Listing:
        """List the oldest letters that are wanted.

        Raises:
            BrokerError: RabbitMQ can't be reached or refuses.
        """
        found: list[dict[str, Any]] = []
        async with self._reading, dead_letter_queue(self._settings) as queue:
            async for step in queue.find(wanted):
                found += [summary(letter) for letter in step.done[: most - len(found)]]
                if len(found) == most:
                    break
            return Listing(found, queue.incomplete)

    async def show(self, letter_id: str) -> dict[str, Any]:
        """All that a letter says, its body too.

        Raises:
            NotFoundError: there is no such letter, or somebody else holds it just now.
            BrokerError: RabbitMQ can't be reached, refuses, or delivered fewer letters than it counted.
        """
        async with self._reading, dead_letter_queue(self._settings) as queue:
            async for step in queue.find(Wanted(frozenset({letter_id}))):
                for letter in step.done:
                    return everything_of(letter)
            raise _not_found(letter_id, queue.incomplete)

    async def replay(self, wanted: Wanted) -> Done:
        """Publish letters again, to where they came from.

        Raises:
            NotFoundError: none of the letters that are named is there.
            BrokerError: RabbitMQ can't be reached or refuses; what was not done is there still.
            PyMongoError: MongoDB is away or refused; the same.
        """
        became = Done()
        async with self._reading, dead_letter_queue(self._settings) as queue:
            async for step in queue.replay(wanted, self._mongo):
                became.done.extend(letter.id for letter in step.done)
                became.kept.extend(Kept(letter.id, why) for letter, why in step.kept)
            return _checked(wanted, replace(became, incomplete=queue.incomplete))

    async def drop(self, wanted: Wanted) -> Done:
        """Delete letters.

        Raises:
            NotFoundError: none of the letters that are named is there.
            BrokerError: RabbitMQ can't be reached or refuses; what was not done is there still.
        """
        became = Done()
        async with self._reading, dead_letter_queue(self._settings) as queue:
            async for step in queue.drop(wanted, queue.count):
                became.done.extend(letter.id for letter in step.done)
            return _checked(wanted, replace(became, incomplete=queue.incomplete))


def _checked(wanted: Wanted, became: Done) -> Done:
    """Refuse where none of the letters that were named is there; some may have been done by others."""
    found = {*became.done, *(kept.id for kept in became.kept)}
    if wanted.ids and not found:
        raise _not_found(", ".join(sorted(wanted.ids)), became.incomplete)
    return became


def _not_found(letter_id: str, incomplete: str | None) -> PlatformError:
    """Say that a letter is not there, unless it may be one of those that were not read."""
    if incomplete is not None:
        return BrokerError(incomplete)
    return NotFoundError(f"no dead letter {letter_id}; somebody may be reading the queue just now")

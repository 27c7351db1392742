"""Blocks: calls that are reserved ahead, so that a busy automation's requests need no round trip each.

A worker takes a few calls more than are asked for along with a reservation, hands them out for a moment, and
gives back what is left. Bucket4j and Google's Doorman call it a local quota or a lease of capacity.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from workers.keys.key import Key
from workers.keys.limits import chargeable, model_room, room
from workers.keys.selection import Ask, allows

#: How long calls are reserved ahead, in seconds: they count in the second of their reservation, and
#: `limits.GUARD_S` has room for what is made so much later.
BLOCK_S = 0.5
#: The most calls of a block.
MOST = 32
#: A block is no more than this part of what its key has room for: where room is scarce, nothing is kept.
PART = 64


@dataclass(slots=True)
class Block:
    """Calls of a model that are reserved and not handed out yet.

    Attributes:
        key: as it was when they were reserved.
        hold: under which they are.
        second: in which they count.
        until: when it is over, in seconds since the epoch on the server's clock.
        since: `Reservation.since` of its calls.
    """

    key: Key
    hold: str
    second: int
    model: str
    calls: int
    tokens: int
    until: float
    since: float

    def take(self, ask: Ask, now: float) -> int | None:
        """Hand out a call.

        Args:
            ask: what is needed, of the block's model.
            now: the server's time, in seconds since the epoch.

        Returns:
            The call's tokens; None where the block does not serve it.
        """
        tokens = chargeable(self.key, ask.tokens, ask.model, now)
        if not self.calls or tokens > self.tokens or ask.deadline <= now or self.key.id in ask.avoid:
            return None
        self.calls -= 1
        self.tokens -= tokens
        return tokens

    def stands(self, key: Key, now: float) -> bool:
        """Whether its calls may be made still, by its key as last seen."""
        return self.until > now and key.may_be_called(now) and allows(key.denied_models, self.model, now)


class Blocks:
    """One automation's blocks, one a model.

    Args:
        give_back: gives back what is left of a block.
    """

    def __init__(self, give_back: Callable[[Block], None]) -> None:
        self._give_back = give_back
        self._blocks: dict[str, Block] = {}
        self._demand = Demand()

    @property
    def calls(self) -> int:
        """How many calls are reserved and not handed out."""
        return sum(block.calls for block in self._blocks.values())

    def note(self, ask: Ask, now: float) -> None:
        """Count an ask as one of what is needed; `now` in seconds, as everywhere here."""
        self._demand.note(ask.model or "", now)

    def take(self, ask: Ask, keys: Mapping[str, Key], now: float) -> tuple[Block, int] | None:
        """Serve an ask.

        Args:
            ask: what is needed.
            keys: as last seen, by id.
            now: the server's time.

        Returns:
            The block, and the call's tokens; None where there is nothing for it.
        """
        block = self._blocks.get(ask.model or "")
        if block is None:
            return None
        key = keys.get(block.key.id)
        if key is None or not block.stands(key, now):
            self.end(block)
            return None
        tokens = block.take(ask, now)
        if tokens is None:
            return None
        if not block.calls:
            self.end(block)
        return block, tokens

    def wanted(self, key: Key, model: str, token_counts: Sequence[int], now: float) -> list[int]:
        """The tokens of calls to reserve ahead on a key, along with those of so many tokens."""
        if model in self._blocks:
            return []
        tokens = math.ceil(sum(token_counts) / len(token_counts))
        expected = self._demand.expected(model, now) - len(token_counts)
        return [tokens] * calls_ahead(key, model, tokens, expected, now)

    def begin(self, block: Block, now: float) -> None:
        """Hand out a block's calls from now on, until its time is over; its model has no other."""
        self._blocks[block.model] = block
        asyncio.get_running_loop().call_later(block.until - now, self.end, block)

    def end(self, block: Block) -> None:
        """Give back what is left of a block, once."""
        if self._blocks.get(block.model) is block:
            del self._blocks[block.model]
            if block.calls or block.tokens:
                self._give_back(block)

    def end_all(self) -> None:
        """Give back what is left of every block."""
        for block in list(self._blocks.values()):
            self.end(block)


class Demand:
    """How many calls of each model are asked for in the time of a block."""

    def __init__(self) -> None:
        """Begin with none."""
        self._began = float("-inf")
        self._before: Counter[str] = Counter()
        self._now: Counter[str] = Counter()

    def note(self, model: str, now: float) -> None:
        """Count an ask; `now` in seconds."""
        self._turn(now)
        self._now[model] += 1

    def expected(self, model: str, now: float) -> int:
        """As many as in the last whole stretch of time, or in this one, where they are more."""
        self._turn(now)
        return max(self._before[model], self._now[model])

    def _turn(self, now: float) -> None:
        passed_s = now - self._began
        if passed_s < BLOCK_S:
            return
        self._before = self._now if passed_s < 2 * BLOCK_S else Counter()
        self._now = Counter()
        self._began = now


def calls_ahead(key: Key, model: str, tokens: int, expected: int, now: float) -> int:
    """How many calls to reserve ahead on a key.

    Args:
        key: as last seen.
        model: of the calls.
        tokens: of one call.
        expected: how many more are expected in the time of a block.
        now: the server's time, in seconds since the epoch.
    """
    fitting = min(room(key, now).calls_of(tokens), model_room(key, model, now).calls_of(tokens))
    return max(0, min(expected, MOST, fitting // PART))

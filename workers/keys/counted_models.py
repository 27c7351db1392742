"""Which models of an automation are counted by themselves in its keys' documents: few, whatever is asked for.

A key's document counts calls by model, and remembers of a model what the provider says of its limits, and
whether the key may use it. Requests may name any number of models that nobody has heard of; so a worker gives
the first few a place of their own, and counts all others together. A model for which the provider answers
takes the place of one for which it does not.
"""

import time
from dataclasses import dataclass
from typing import Final

from infra.bounds import LONGEST_MODEL

#: Models of one automation that have a place of their own in a worker.
MOST_MODELS: Final = 32
#: A place is given to another model when its own has not been asked for so long, in seconds: as long as it is
#: remembered that a key may not use it.
IDLE_S: Final = 600.0
#: Under which the others are counted, and calls that name no model.
OTHERS: Final = ""


@dataclass(slots=True)
class _Place:
    asked_at: float
    is_real: bool = False


class CountedModels:
    """The models of one automation that have a place of their own."""

    def __init__(self) -> None:
        #: By name, the one that was asked for longest ago first.
        self._places: dict[str, _Place] = {}

    def counted_as(self, model: str | None) -> str:
        """The name under which calls of a model are counted."""
        if not model or len(model) > LONGEST_MODEL:
            return OTHERS
        now = time.monotonic()
        place = self._places.pop(model, None)
        if place is None:
            if len(self._places) >= MOST_MODELS and not self._give_up_idle(now):
                return OTHERS
            place = _Place(now)
        place.asked_at = now
        self._places[model] = place
        return model

    def answered(self, model: str) -> None:
        """Note that a provider has answered for a model: there is such a one."""
        place = self._places.get(model)
        if place is None:
            if len(model) > LONGEST_MODEL or not self._has_room():
                return
            place = self._places[model] = _Place(time.monotonic())
        place.is_real = True

    def _has_room(self) -> bool:
        """Whether there is a place, once a model has given up its own for which nobody has answered."""
        if len(self._places) < MOST_MODELS:
            return True
        unanswered = next((name for name, place in self._places.items() if not place.is_real), None)
        if unanswered is None:
            return self._give_up_idle(time.monotonic())
        del self._places[unanswered]
        return True

    def _give_up_idle(self, now: float) -> bool:
        oldest = next(iter(self._places))
        if now - self._places[oldest].asked_at < IDLE_S:
            return False
        del self._places[oldest]
        return True

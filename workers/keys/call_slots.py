"""The bound on the calls that one worker process has in flight, in turns among its automations."""

import sys
from collections.abc import Callable


class CallSlots:
    """So many slots; each is held by one call, from just before its reservation to its end.

    An automation without a slot waits in line, once for all of its requests. A slot that comes free is
    promised to the first in the line, which then goes to its end. So an automation with a thousand requests
    keeps nobody else from a slot for longer than one turn of the line.
    """

    def __init__(self, most: int | None = None) -> None:
        """Begin with all slots free.

        Args:
            most: how many there are; None: no bound.
        """
        self.free = sys.maxsize if most is None else most
        self._line: dict[str, Callable[[], None]] = {}
        self._promised: set[str] = set()

    def has_one_for(self, automation_id: str) -> bool:
        """Whether the automation may take a slot now."""
        return self.free > 0 or automation_id in self._promised

    def take(self, automation_id: str, wanted: int, wake: Callable[[], None]) -> int:
        """Take slots, and wait in line where there are fewer.

        Args:
            automation_id: whose calls they are for.
            wanted: how many, at least one.
            wake: called when a slot is promised to the automation.

        Returns:
            How many were taken, at most `wanted`; give each back with `give`.
        """
        promised = int(automation_id in self._promised)
        self._promised.discard(automation_id)
        # While some are free, nobody is in line.
        more = min(self.free, wanted - promised)
        self.free -= more
        if promised + more < wanted:
            self._line.setdefault(automation_id, wake)
        return promised + more

    def leave(self, automation_id: str) -> None:
        """Leave the line, and pass on what was promised; harmless to repeat."""
        self._line.pop(automation_id, None)
        if automation_id in self._promised:
            self._promised.discard(automation_id)
            self.give(1)

    def give(self, count: int) -> None:
        """Give slots back: each to the first in the line, or to whoever asks next."""
        for _ in range(count):
            if not self._line:
                self.free += 1
                continue
            first = next(iter(self._line))
            wake = self._line.pop(first)
            self._promised.add(first)
            wake()

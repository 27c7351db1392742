"""Which deliveries of a channel may be acknowledged together: all up to the first that is not settled."""

from collections.abc import Iterable


class SettledTags:
    """The delivery tags of one channel, 1, 2, 3 …, of which those that are settled come in any order."""

    def __init__(self) -> None:
        self._up_to = 0
        self._beyond: set[int] = set()

    def settle(self, tags: Iterable[int]) -> int | None:
        """Note that deliveries are settled, each once.

        Returns:
            The tag up to which all are settled; None where that is no further than before.
        """
        beyond = self._beyond
        beyond.update(tags)
        up_to = self._up_to
        while (following := up_to + 1) in beyond:
            beyond.remove(following)
            up_to = following
        if up_to == self._up_to:
            return None
        self._up_to = up_to
        return up_to

"""Which chunk of a streamed answer comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts.errors import BrokenStreamError

if TYPE_CHECKING:
    from contracts.messages import GenerationChunk


class ChunkOrder:
    """Lets each chunk pass once and in order.

    Attributes:
        expected: the index of the next chunk; 0 at the start, and after a restart until its first chunk.
    """

    def __init__(self) -> None:
        self.expected = 0

    def admits(self, chunk: GenerationChunk) -> bool:
        """Whether this chunk is to be passed on; false for one that has been.

        Raises:
            BrokenStreamError: chunks before it are missing.
        """
        if chunk.restarted:
            self.expected = 0
        if chunk.index < self.expected:
            return False
        if chunk.index > self.expected:
            raise BrokenStreamError(
                f"chunk {self.expected} of request {chunk.request_id} is missing: chunk {chunk.index} came"
            )
        self.expected += 1
        return True

"""Which queues have confirmed a message on a connection, so that others' messages may go beside theirs.

Upon the first message to a quorum queue without a leader, RabbitMQ 3.10 handles nothing more on that channel
for 65 s, and nothing on the connection once some hundred messages wait for the channel. So the first message
to each queue is published by itself.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

#: Queues that are remembered; the oldest is forgotten.
MOST_PROVED = 10_000


class ProvedQueues:
    """The queues that have confirmed a message, and those whose first message is under way."""

    def __init__(self) -> None:
        self._proved: dict[str, None] = {}
        #: Whether the first message was answered, once that is known.
        self._first: dict[str, asyncio.Future[bool]] = {}

    def __contains__(self, queue: str) -> bool:
        """Whether it has confirmed a message."""
        return queue in self._proved

    async def wait(self, queue: str) -> None:
        """Wait while a first message to the queue is under way.

        Raises:
            TimeoutError: that was not answered.
        """
        while (first := self._first.get(queue)) is not None:
            await asyncio.wait([first])
            if not first.result():
                raise TimeoutError

    @contextmanager
    def first(self, queue: str) -> Iterator[None]:
        """The publish of a first message: the queue is proved if the block does not raise.

        Args:
            queue: of which none is under way.
        """
        first = self._first[queue] = asyncio.get_running_loop().create_future()
        answered = True
        try:
            yield
        except TimeoutError:
            answered = False
            raise
        else:
            self._proved[queue] = None
            if len(self._proved) > MOST_PROVED:
                del self._proved[next(iter(self._proved))]
        finally:
            del self._first[queue]
            first.set_result(answered)

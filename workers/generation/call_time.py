"""How long one call may take, and took: the provider's time, without that of who reads a stream."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

#: A reader that was waited for so long, in seconds, is why a provider closed a connection that nobody read.
SLOW_READER_S = 5.0


class CallTime:
    """The clock of one call: it stands still while the reader is waited for, whose own bound then runs.

    A reader may keep a stream waiting for as long, in total, as the provider may.

    Args:
        timeout_s: how long the provider may take, in seconds.

    Attributes:
        limit: enter it around the call; it raises `TimeoutError` when either bound is reached.
        is_readers_fault: whether the reader's bound was reached.
    """

    def __init__(self, timeout_s: float) -> None:
        self.limit = asyncio.timeout(timeout_s)
        self.is_readers_fault = False
        self._timeout_s = timeout_s
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._reader_s = 0.0

    @property
    def latency_ms(self) -> int:
        """How long the provider has taken so far, in milliseconds."""
        return round((self._now() - self._started - self._reader_s) * 1000)

    @property
    def is_reader_slow(self) -> bool:
        """Whether the reader was waited for so long that a provider may have lost patience."""
        return self._reader_s >= SLOW_READER_S

    @contextmanager
    def reader(self) -> Iterator[None]:
        """The time within is the reader's."""
        began, ends = self._now(), self.limit.when()
        self.limit.reschedule(began + max(0.0, self._timeout_s - self._reader_s))
        try:
            yield
        finally:
            took = self._now() - began
            self._reader_s += took
            if self.limit.expired():
                self.is_readers_fault = True
            elif ends is not None:
                self.limit.reschedule(ends + took)

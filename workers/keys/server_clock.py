"""MongoDB's clock, as this process knows it."""

import time


class ServerClock:
    """Seconds on MongoDB's clock: this process's monotonic clock, set by what MongoDB says."""

    def __init__(self) -> None:
        """Begin with this machine's clock."""
        self.set(time.time())

    def set(self, server_time: float) -> None:
        """Take what MongoDB's clock shows now, in seconds since the epoch."""
        self._offset = server_time - time.monotonic()

    def now(self) -> float:
        """The time on MongoDB's clock, in seconds since the epoch."""
        return time.monotonic() + self._offset

"""MongoDB's clock, as this process knows it."""

import time


class ServerClock:
    """Seconds on MongoDB's clock, and never behind it.

    MongoDB read its clock at some moment between question and answer. So its clock is ahead of this
    process's monotonic clock by at most what it said minus the reading before the question, and by at least
    what it said minus the reading after the answer. Each answer narrows these two bounds. `now` goes by the
    upper one: nothing looks younger than it is. An answer that is seconds late changes little.
    """

    def __init__(self) -> None:
        """Begin with this machine's clock, until MongoDB has answered."""
        self._least = self._most = time.time() - time.monotonic()

    def set(self, server_time: float, asked_at: float) -> None:
        """Take what MongoDB says that its clock shows.

        Args:
            server_time: that it says, in seconds since the epoch.
            asked_at: this process's monotonic clock before the question was sent, in seconds.
        """
        least, most = server_time - time.monotonic(), server_time - asked_at
        if least > self._most or most < self._least:
            # The two clocks have drifted apart, MongoDB's was set, or another member answers.
            self._least, self._most = least, most
        else:
            self._least, self._most = max(least, self._least), min(most, self._most)

    def now(self) -> float:
        """The time on MongoDB's clock, in seconds since the epoch."""
        return time.monotonic() + self._most

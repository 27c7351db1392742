"""Latencies of a load as a histogram, and what a generator that waits for answers would leave out of it.

A closed loop sends the next request when an answer has come. While one answer is late, it sends none: those
that it would have sent meanwhile, which would have been late too, are missing (coordinated omission). An
open loop measures from the moment at which a request was due, so that nothing is missing.
"""

from collections.abc import Iterable
from typing import Self

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped, unused-ignore]

#: What is told apart: from a microsecond to an hour, to 3 digits.
LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3


class Latencies:
    """A histogram in microseconds."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)

    @classmethod
    def of(cls, latencies_s: Iterable[float], *, expected_interval_s: float = 0) -> Self:
        """Latencies in seconds; those that a closed loop left out are added, where an interval is given.

        A latency of several intervals stands for the requests that would have been sent meanwhile: they
        would have waited one interval less, two less, and so on.
        """
        found = cls()
        interval_us = round(expected_interval_s * 1e6)
        for latency_s in latencies_s:
            found._histogram.record_corrected_value(max(LOWEST_US, round(latency_s * 1e6)), interval_us)
        return found

    @classmethod
    def decoded(cls, encoded: Iterable[str]) -> Self:
        """The sum of histograms that `encoded` gave."""
        found = cls()
        for one in encoded:
            found._histogram.decode_and_add(one)
        return found

    @property
    def encoded(self) -> str:
        """The histogram as text."""
        text: bytes = self._histogram.encode()
        return text.decode()

    @property
    def count(self) -> int:
        """How many there are."""
        count: int = self._histogram.get_total_count()
        return count

    def percentile_ms(self, percent: float) -> float:
        """The latency that so many percent do not exceed, in milliseconds; 0 when there is none."""
        value_us: int = self._histogram.get_value_at_percentile(percent)
        return value_us / 1000

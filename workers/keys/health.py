"""How well a key does: smoothed latency and error rate, and the circuit that failures in a row open.

Exponentially weighted moving averages, as in TCP's smoothed round-trip time (RFC 6298):
new = old + ALPHA * (sample - old).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workers.keys.key import Key

#: Weight of one sample.
ALPHA = 0.2
#: How long a circuit stays open after the failure that opens it, doubling with each further one, in seconds.
CIRCUIT_OPEN_S = 5
CIRCUIT_OPEN_MAX_S = 300


@dataclass(frozen=True, slots=True)
class Sample:
    """One attempt that says something about the key; `latency_ms` only where it answered."""

    ok: bool
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Smoothing:
    """What a batch of samples does to the stored figures: new = keep·old + add."""

    keep: float
    add: float


def smooth(samples: Sequence[float]) -> Smoothing:
    """Fold a batch of samples into one update of a moving average."""
    keep, add = 1.0, 0.0
    for sample in samples:
        keep *= 1 - ALPHA
        add = (1 - ALPHA) * add + ALPHA * sample
    return Smoothing(keep, add)


def trailing_failures(samples: Sequence[Sample]) -> tuple[int, bool]:
    """Failures since the last success of the batch, and whether there was a success."""
    count = 0
    for sample in reversed(samples):
        if sample.ok:
            return count, True
        count += 1
    return count, False


def health_rank(key: Key) -> tuple[int, int]:
    """Coarse rank of a key's health, best first: errors by tenths, then latency by doublings.

    Coarse on purpose: keys that do about equally well share a rank and take turns.
    """
    return round(key.error_rate * 10), round(math.log2(max(key.latency_ms, 1.0)))

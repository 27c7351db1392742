"""Where a request's time went: what a waterfall shows of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from infra.mongo import Document


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a request's life, in milliseconds since it was published (or since its first attempt)."""

    name: str
    start_ms: int
    duration_ms: int
    attempt: int | None = None


def steps_of(rows: Sequence[Document], timings: Mapping[str, int] | None) -> list[Step]:
    """Where a request's time went.

    Args:
        rows: its rows in the ledger, in their order; each says when its call ended and how long it took.
        timings: of its result; None: the first attempt is taken for the beginning.
    """
    if not rows and timings is None:
        return []
    steps = []
    begin = _began(rows, timings)
    if timings is not None:
        steps.append(Step("queued", 0, timings["queued_ms"]))
        if timings["waited_ms"]:
            steps.append(Step("waited", timings["queued_ms"], timings["waited_ms"]))
    last_ms = sum(step.duration_ms for step in steps)
    for number, row in enumerate(rows, start=1):
        end_ms = _ms(row["occurred_at"] - begin) if begin else row["latency_ms"]
        start_ms = max(0, end_ms - row["latency_ms"])
        steps.append(Step("attempt", start_ms, row["latency_ms"], number))
        last_ms = max(last_ms, start_ms + row["latency_ms"])
    if timings is not None and timings["total_ms"] > last_ms:
        steps.append(Step("reply", last_ms, timings["total_ms"] - last_ms))
    return steps


def _began(rows: Sequence[Document], timings: Mapping[str, int] | None) -> datetime | None:
    """When a request was published: so long before its last attempt's end that all fits."""
    if not rows:
        return None
    if timings is None:
        first: datetime = rows[0]["occurred_at"]
        return first - timedelta(milliseconds=rows[0]["latency_ms"])
    last: datetime = rows[-1]["occurred_at"]
    return last - timedelta(milliseconds=timings["total_ms"])


def _ms(span: timedelta) -> int:
    return max(0, round(span.total_seconds() * 1000))

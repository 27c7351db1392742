"""Where a request's time went."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from infra.mongo import Document
from workers.console.request_timeline import Step, steps_of

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def row(end_ms: int, latency_ms: int) -> Document:
    return {"occurred_at": NOON + timedelta(milliseconds=end_ms), "latency_ms": latency_ms}


def test_a_request_waits_is_tried_twice_and_answered() -> None:
    timings = {"queued_ms": 10, "waited_ms": 100, "upstream_ms": 290, "total_ms": 500}
    rows = [row(200, 90), row(500, 200)]
    assert steps_of(rows, timings) == [
        Step("queued", 0, 10),
        Step("waited", 10, 100),
        Step("attempt", 110, 90, 1),
        Step("attempt", 300, 200, 2),
    ]


def test_what_is_left_to_the_end_is_the_reply() -> None:
    timings = {"queued_ms": 5, "waited_ms": 0, "upstream_ms": 0, "total_ms": 25}
    assert steps_of([], timings) == [Step("queued", 0, 5), Step("reply", 5, 20)]


def test_without_timings_the_first_attempt_is_the_beginning() -> None:
    assert steps_of([row(100, 100), row(400, 200)], None) == [
        Step("attempt", 0, 100, 1),
        Step("attempt", 200, 200, 2),
    ]
    assert steps_of([], None) == []


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), max_size=5),
    st.none() | st.integers(0, 20_000),
)
def test_no_step_is_negative_whatever_clocks_say(ends: list[tuple[int, int]], total_ms: int | None) -> None:
    timings = None
    if total_ms is not None:
        timings = {"queued_ms": 3, "waited_ms": 2, "upstream_ms": 0, "total_ms": total_ms}
    rows = [row(end_ms, latency_ms) for end_ms, latency_ms in sorted(ends)]
    assert all(step.start_ms >= 0 and step.duration_ms >= 0 for step in steps_of(rows, timings))

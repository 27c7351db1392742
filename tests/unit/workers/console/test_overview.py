"""Percentiles and the last minute's parts."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workers.console.overview import BUCKET_S, Percentiles, buckets, percentiles


def test_percentiles_are_times_that_were_there() -> None:
    assert percentiles([]) == Percentiles(0, None, None)
    assert percentiles([7]) == Percentiles(1, 7, 7)
    assert percentiles(list(range(1, 101))) == Percentiles(100, 50, 95)


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_at_least_so_many_percent_were_as_fast(times: list[int]) -> None:
    found = percentiles(times)
    for percent, value in ((50, found.p50_ms), (95, found.p95_ms)):
        assert value is not None
        assert sum(time <= value for time in times) * 100 >= percent * len(times)


def test_the_last_minute_has_no_gaps_and_ends_now() -> None:
    now = datetime(2026, 1, 1, 12, 0, 32, tzinfo=UTC)
    lately = (datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC), "ok", 3)
    row = buckets([lately, (now - timedelta(hours=1), "ok", 9)], now)
    assert len(row) == 60 // BUCKET_S
    assert row[-1].outcomes == {"ok": 3}
    assert [each.outcomes for each in row[:-1]] == [{}] * (len(row) - 1)
    assert {(b.at - a.at).total_seconds() for a, b in pairwise(row)} == {BUCKET_S}

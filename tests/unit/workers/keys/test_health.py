"""Health: moving averages that may be folded in batches, failures in a row, and a coarse rank."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import make_key
from workers.keys.health import ALPHA, Sample, health_rank, smooth, trailing_failures

FIGURES = st.floats(0, 1e6)


@given(FIGURES, st.lists(FIGURES, max_size=50))
def test_a_batch_does_what_its_samples_do_one_by_one(stored: float, samples: list[float]) -> None:
    one_by_one = stored
    for sample in samples:
        one_by_one += ALPHA * (sample - one_by_one)
    folded = smooth(samples)
    assert folded.keep * stored + folded.add == pytest.approx(one_by_one, abs=1e-6)


@given(st.lists(FIGURES, max_size=20), st.lists(FIGURES, max_size=20))
def test_it_does_not_matter_how_samples_are_cut_into_batches(one: list[float], two: list[float]) -> None:
    first, second, whole = smooth(one), smooth(two), smooth(one + two)
    assert second.keep * first.keep == pytest.approx(whole.keep)
    assert second.keep * first.add + second.add == pytest.approx(whole.add, abs=1e-6)


def test_one_sample_moves_the_average_by_a_fifth_of_the_difference() -> None:
    folded = smooth([200.0])
    assert folded.keep * 100 + folded.add == pytest.approx(120)


def test_no_sample_changes_nothing() -> None:
    assert (smooth([]).keep, smooth([]).add) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("outcomes", "failures", "succeeded"),
    [
        ("", 0, False),
        ("+", 0, True),
        ("-", 1, False),
        ("---", 3, False),
        ("-+", 0, True),
        ("+--", 2, True),
        ("-+-", 1, True),
        ("+-+", 0, True),
    ],
)
def test_failures_count_from_the_last_success(outcomes: str, failures: int, succeeded: bool) -> None:
    samples = [Sample(ok=outcome == "+") for outcome in outcomes]
    assert trailing_failures(samples) == (failures, succeeded)


def rank(latency_ms: float = 500.0, error_rate: float = 0.0) -> tuple[int, int]:
    return health_rank(make_key(latency_ms=latency_ms, error_rate=error_rate))


def test_fewer_errors_come_before_a_quicker_answer() -> None:
    assert rank(latency_ms=10_000, error_rate=0.0) < rank(latency_ms=10, error_rate=0.5)


@pytest.mark.parametrize(("better", "worse"), [(100, 400), (0, 100), (1000, 8000)])
def test_of_two_keys_with_as_many_errors_the_quicker_is_better(better: float, worse: float) -> None:
    assert rank(latency_ms=better) < rank(latency_ms=worse)


def test_keys_that_do_about_equally_well_share_a_rank() -> None:
    assert rank(latency_ms=500, error_rate=0.01) == rank(latency_ms=600, error_rate=0.04)


@given(FIGURES, st.floats(0, 1))
def test_every_key_has_a_rank(latency_ms: float, error_rate: float) -> None:
    errors, doublings = rank(latency_ms, error_rate)
    assert 0 <= errors <= 10
    assert doublings >= 0

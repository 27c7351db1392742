"""What a closed loop leaves out is put back, and histograms survive their way between processes."""

import pytest

from tests.bench.latencies import Latencies

#: A histogram keeps three digits.
CLOSE = pytest.approx


def test_percentiles_are_those_of_what_was_recorded() -> None:
    latencies = Latencies.of(milliseconds / 1000 for milliseconds in range(1, 1001))
    assert latencies.count == 1000
    assert latencies.percentile_ms(50) == CLOSE(500, rel=0.002)
    assert latencies.percentile_ms(99) == CLOSE(990, rel=0.002)


def test_a_late_answer_stands_for_the_requests_that_were_not_sent_meanwhile() -> None:
    # 99 answers after 1 ms each, and one after 100 ms: it held up 99 more, by 99 ms, 98 ms, …, 1 ms.
    seen = [0.001] * 99 + [0.1]
    assert Latencies.of(seen).percentile_ms(75) == CLOSE(1, rel=0.01)
    corrected = Latencies.of(seen, expected_interval_s=0.001)
    assert corrected.count == 199
    assert corrected.percentile_ms(75) == CLOSE(50, rel=0.02)


def test_answers_in_time_stand_for_themselves() -> None:
    seen = [0.001, 0.002, 0.003]
    assert Latencies.of(seen, expected_interval_s=0.003).count == 3


def test_what_is_shorter_than_a_microsecond_counts_as_one() -> None:
    assert Latencies.of([0.0, 1e-9]).percentile_ms(100) == CLOSE(0.001)


def test_histograms_of_several_processes_add_up() -> None:
    one, other = Latencies.of([0.001] * 10), Latencies.of([0.003] * 30)
    both = Latencies.decoded([one.encoded, other.encoded])
    assert both.count == 40
    assert both.percentile_ms(20) == CLOSE(1, rel=0.002)
    assert both.percentile_ms(50) == CLOSE(3, rel=0.002)

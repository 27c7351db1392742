"""When a key that stopped is probed: soon, then less often, and afresh when it had really come back."""

from datetime import timedelta

import pytest

from tests.builders import NOON, key_document
from workers.keys.probe_schedule import INTERVALS_S, RELAPSE_S, first_probe, next_interval_s


@pytest.mark.parametrize("cause", INTERVALS_S)
def test_intervals_double_up_to_the_longest(cause: str) -> None:
    first, longest = INTERVALS_S[cause]
    intervals = [first]
    while intervals[-1] < longest:
        intervals.append(next_interval_s(cause, intervals[-1]))
    assert intervals[1] == 2 * first
    assert next_interval_s(cause, longest) == longest


@pytest.mark.parametrize("cause", [None, "day"])
def test_a_key_that_comes_back_by_the_clock_or_by_a_person_is_not_probed(cause: str | None) -> None:
    assert first_probe(cause, key_document(), NOON) is None


@pytest.mark.parametrize(
    ("active_s", "earlier", "interval_s"),
    [
        (1, None, 5),
        (1, {"interval_s": 20, "cause": "failing"}, 40),
        (20 + RELAPSE_S, {"interval_s": 20, "cause": "failing"}, 40),
        (21 + RELAPSE_S, {"interval_s": 20, "cause": "failing"}, 5),
        (1, {"interval_s": 20, "cause": "quota"}, 5),
        (1, {"interval_s": 300, "cause": "failing"}, 300),
    ],
)
def test_a_key_that_fell_back_at_once_goes_on_where_its_probes_were(
    active_s: int, earlier: dict[str, object] | None, interval_s: int
) -> None:
    key = key_document(status_since=NOON - timedelta(seconds=active_s), probe=earlier)
    assert first_probe("failing", key, NOON) == {
        "at": NOON + timedelta(seconds=interval_s),
        "interval_s": interval_s,
        "cause": "failing",
    }

"""When a key that stopped is probed: soon, then less often, and afresh when it had really come back."""

from datetime import timedelta

import pytest

from tests.builders import NOON, key_document
from workers.keys.probe_schedule import RELAPSE_S, first_probe


@pytest.mark.parametrize("cause", [None, "day"])
def test_a_key_that_comes_back_by_the_clock_or_by_a_person_is_not_probed(cause: str | None) -> None:
    assert first_probe(cause, key_document(), NOON) is None


@pytest.mark.parametrize(
    ("active_s", "earlier", "interval_s"),
    [
        (1, None, 5),
        (1, {"interval_s": 20, "cause": "failing"}, 20),
        (20 + RELAPSE_S, {"interval_s": 20, "cause": "failing"}, 20),
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

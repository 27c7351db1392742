"""The age of what waits in a lane, from notes of how much was published when."""

from hypothesis import given
from hypothesis import strategies as st

from infra.lanes import MOST_NOTES, Age, Publications, QueueState


def noted(*counts: int, every_s: float = 10.0) -> Publications:
    publications = Publications()
    for number, published in enumerate(counts):
        publications.note(published, number * every_s)
    return publications


def test_nothing_waits_so_nothing_has_an_age() -> None:
    assert noted(5, 8).age_of_oldest(0, 20.0) is None
    assert Publications().age_of_oldest(3, 20.0) is None


def test_the_oldest_came_before_the_note_that_has_it() -> None:
    # 5, 8 and 9 published at 0, 10 and 20 s; what waits is the last of them.
    publications = noted(5, 8, 9)
    assert publications.age_of_oldest(1, 25.0) == Age(5.0, at_least=False)
    assert publications.age_of_oldest(2, 25.0) == Age(15.0, at_least=False)
    assert publications.age_of_oldest(4, 25.0) == Age(15.0, at_least=False)


def test_what_was_there_before_the_first_note_is_at_least_as_old_as_that() -> None:
    assert noted(5, 8).age_of_oldest(4, 30.0) == Age(30.0, at_least=True)


def test_a_quiet_lane_ages_though_notes_are_merged() -> None:
    publications = noted(5, 6, *[6] * 50)
    assert len(publications.counts) == 3
    assert publications.age_of_oldest(1, 600.0) == Age(590.0, at_least=False)


def test_a_broker_that_counts_anew_is_noted_anew() -> None:
    publications = noted(100, 120, 3)
    assert publications.age_of_oldest(2, 50.0) == Age(30.0, at_least=True)
    assert publications.age_of_oldest(50, 50.0) == Age(30.0, at_least=True)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=2000), st.integers(1, 50))
def test_an_age_is_never_more_than_it_is_and_notes_do_not_pile_up(arrivals: list[int], waiting: int) -> None:
    publications, times = Publications(), list[float]()
    for number, count in enumerate(arrivals):
        times += [float(number)] * count
        publications.note(len(times), float(number))
    assert len(publications.counts) <= MOST_NOTES
    now = float(len(arrivals))
    age = publications.age_of_oldest(min(waiting, len(times)), now)
    if age is not None:
        published_at = times[-min(waiting, len(times))]
        assert age.seconds <= now - published_at


def test_a_queue_without_statistics_has_none() -> None:
    assert QueueState.from_management({"name": "x"}) == QueueState(0, 0, 0, 0, 0.0, 0.0)

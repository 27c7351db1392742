"""MongoDB's clock: what a process knows of it, however late the answers are."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NOW, make_key
from workers.keys.automation_keys import Reservation
from workers.keys.server_clock import ServerClock


class Monotonic:
    """A monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    clock = Monotonic()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def ask(clock: ServerClock, monotonic: Monotonic, *, ahead: float, there_s: float, back_s: float) -> None:
    """Ask a server whose clock is ahead of the monotonic one by so much."""
    asked_at = monotonic.now
    monotonic.now += there_s
    server_time = monotonic.now + ahead
    monotonic.now += back_s
    clock.set(server_time, asked_at)


def test_an_answer_that_is_late_does_not_set_the_clock_back(monotonic: Monotonic) -> None:
    clock = ServerClock()
    ask(clock, monotonic, ahead=NOW, there_s=0.001, back_s=0.001)
    ask(clock, monotonic, ahead=NOW, there_s=0.001, back_s=5)
    assert clock.now() == pytest.approx(monotonic.now + NOW, abs=0.002)


def test_a_first_answer_that_is_late_leaves_the_clock_ahead_not_behind(monotonic: Monotonic) -> None:
    clock = ServerClock()
    ask(clock, monotonic, ahead=NOW, there_s=2, back_s=3)
    assert clock.now() == pytest.approx(monotonic.now + NOW + 2)
    ask(clock, monotonic, ahead=NOW, there_s=0, back_s=0.001)
    assert clock.now() == pytest.approx(monotonic.now + NOW)


@pytest.mark.parametrize("step_s", [-4200, -1, 1, 4200])
def test_a_server_whose_clock_was_set_is_followed(monotonic: Monotonic, step_s: float) -> None:
    clock = ServerClock()
    ask(clock, monotonic, ahead=NOW, there_s=0.001, back_s=0.001)
    ask(clock, monotonic, ahead=NOW + step_s, there_s=0.001, back_s=0.001)
    assert clock.now() == pytest.approx(monotonic.now + NOW + step_s, abs=0.002)


trip = st.floats(0, 30)


@given(trips=st.lists(st.tuples(trip, trip, trip), min_size=1, max_size=20))
def test_the_clock_is_never_behind_the_servers(trips: list[tuple[float, float, float]]) -> None:
    monotonic = Monotonic()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "monotonic", monotonic)
        clock = ServerClock()
        for pause_s, there_s, back_s in trips:
            monotonic.now += pause_s
            ask(clock, monotonic, ahead=NOW, there_s=there_s, back_s=back_s)
            assert clock.now() >= monotonic.now + NOW - 1e-6
        shortest_s = min(there_s + back_s for _, there_s, back_s in trips)
        assert clock.now() <= monotonic.now + NOW + shortest_s + 1e-6


def test_a_reservations_age_is_of_the_process_and_not_of_the_servers_clock() -> None:
    reservation = Reservation(make_key(), int(NOW), 1, "", "worker-1", since=1000.0)
    assert reservation.age_s(1005.5) == 5.5

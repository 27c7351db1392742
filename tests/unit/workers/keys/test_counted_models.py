"""Which models have a place of their own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.bounds import LONGEST_MODEL
from workers.keys.counted_models import IDLE_S, MOST_MODELS, OTHERS, CountedModels


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("workers.keys.counted_models.time.monotonic", clock)
    return clock


def full() -> CountedModels:
    """Every place is taken by a model that nobody has heard of."""
    models = CountedModels()
    for number in range(MOST_MODELS):
        assert models.counted_as(f"made-up-{number}") == f"made-up-{number}"
    return models


@pytest.mark.parametrize("model", [None, "", "m" * (LONGEST_MODEL + 1)])
def test_what_names_no_model_has_no_place(model: str | None) -> None:
    assert CountedModels().counted_as(model) == OTHERS


@pytest.mark.usefixtures("clock")
def test_those_that_come_when_all_places_are_taken_are_counted_together() -> None:
    models = full()
    assert {models.counted_as(f"late-{number}") for number in range(3_000)} == {OTHERS}
    assert models.counted_as("made-up-0") == "made-up-0"


@pytest.mark.usefixtures("clock")
def test_a_model_that_the_provider_answers_for_takes_the_place_of_one_it_does_not() -> None:
    models = full()
    models.counted_as("made-up-0")
    assert models.counted_as("gpt-4o") == OTHERS
    models.answered("gpt-4o")
    assert models.counted_as("gpt-4o") == "gpt-4o"
    # The one that was asked for longest ago.
    assert models.counted_as("made-up-1") == OTHERS
    assert models.counted_as("made-up-0") == "made-up-0"


def test_a_place_is_free_again_when_its_model_has_not_been_asked_for_long(clock: Clock) -> None:
    models = full()
    for number in range(MOST_MODELS):
        models.answered(f"made-up-{number}")
    models.answered("late")
    assert models.counted_as("late") == OTHERS
    clock.now += IDLE_S
    assert models.counted_as("late") == "late"
    models.answered("later")
    assert models.counted_as("later") == "later"


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=600))
def test_there_are_never_more_than_the_most(asked: list[tuple[int, bool]]) -> None:
    models = CountedModels()
    for number, is_real in asked:
        models.counted_as(f"m-{number}")
        if is_real:
            models.answered(f"m-{number}")
        assert len(models._places) <= MOST_MODELS

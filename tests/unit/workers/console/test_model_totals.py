"""Sums by model: so many models are told apart, and nothing is lost of the others."""

from infra.totals import SUMMED
from workers.console.model_totals import MOST_MODELS, OTHERS, folded


def test_few_models_are_left_as_they_are() -> None:
    sums = {"a": dict.fromkeys(SUMMED, 1)}
    assert folded(sums) is sums


def test_of_very_many_the_dearest_stay_and_the_others_are_one() -> None:
    sums = {f"m-{number}": dict.fromkeys(SUMMED, number) for number in range(MOST_MODELS + 10)}
    found = folded(sums)
    assert len(found) == MOST_MODELS + 1
    assert found[OTHERS]["cost_nanousd"] == sum(range(10))
    for name in SUMMED:
        assert sum(model[name] for model in found.values()) == sum(model[name] for model in sums.values())

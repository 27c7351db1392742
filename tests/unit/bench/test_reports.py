"""Ratios are of turns, goals are bounds, and a soak's thirds tell drift from warming up."""

from typing import Any

import pytest

from tests.bench.flame import package_of, shares
from tests.bench.pacing import Load
from tests.bench.part import Finding, Goal
from tests.bench.soak import last_to_second
from tests.bench.worker_cpu import Round, ratio


def rounds(*costs: float) -> list[Round]:
    return [Round(cost, Load(1, 1.0, 0.0, ""), 0.0) for cost in costs]


def test_a_ratio_is_the_median_of_the_turns_and_not_of_the_costs() -> None:
    # The machine was twice as slow in the second turn, for both.
    assert ratio(rounds(1.0, 2.0, 1.2), rounds(2.0, 4.0, 2.0)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal("cost", 0.6), 0.6, "met"),
        (Goal("cost", 0.6), 0.66, "missed by 10 %"),
        (Goal("rate", 100, at_least=True), 100, "met"),
        (Goal("rate", 100, at_least=True), 75, "missed by 25 %"),
    ],
)
def test_a_goal_says_by_how_much_it_is_missed(goal: Goal, value: float, verdict: str) -> None:
    assert Finding(goal, value).verdict == verdict


def test_the_first_third_of_a_soak_warms_up() -> None:
    assert last_to_second([50, 80, 100, 100, 110, 110]) == pytest.approx(1.1)
    with pytest.raises(ValueError, match="fewer than three"):
        last_to_second([1, 2])


@pytest.mark.parametrize(
    ("frame", "package"),
    [
        ("post (/venv/lib/python3.11/site-packages/openai/_base_client.py:12)", "openai"),
        ("handle (/work/keyway/workers/generation/request.py:80)", "workers.generation.request"),
        ("run (/usr/lib/python3.11/asyncio/runners.py:118)", None),
        ("something else", None),
    ],
)
def test_a_frame_belongs_to_a_package_or_to_python(frame: str, package: Any) -> None:
    assert package_of(frame) == package


def test_time_in_pythons_own_functions_is_their_callers() -> None:
    stacks = [
        "main (/x/workers/cli/main.py:1);dumps (/usr/lib/python3.11/json/__init__.py:2) 3",
        "run (/usr/lib/python3.11/asyncio/runners.py:118) 2",
    ]
    assert shares(stacks) == {"workers.cli.main": 3, "Python's own": 2}

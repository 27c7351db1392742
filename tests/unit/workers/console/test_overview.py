"""Percentiles, the last minute's parts, and the day's budgets."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workers.budgets.budget import Budget
from workers.budgets.registry import Standing
from workers.console.overview import (
    BUCKET_S,
    MOST_BUDGETS,
    BudgetsToday,
    Percentiles,
    buckets,
    budgets_today,
    percentiles,
)


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


def standing(number: int, limit: int, spent: int) -> Standing:
    name = f"bot-{number}"
    budget = Budget(
        f"automation/day/{name}/{name}", "automation", name, name, name, "day", limit, 80, True, "", 0, 0, 0.0
    )
    return Standing(budget, "2026-01-01", spent, 0.0)


def test_of_many_daily_budgets_those_are_named_of_which_most_is_spent() -> None:
    assert budgets_today([]) == BudgetsToday(0, 0, 0, [])
    found = budgets_today([standing(number, 100, 10 * number) for number in range(9)])
    assert (found.count, found.limit_nanousd, found.spent_nanousd) == (9, 900, 360)
    assert [budget.spent_nanousd for budget in found.most_used] == [80, 70, 60, 50, 40, 30][:MOST_BUDGETS]


def test_of_budgets_that_are_used_as_much_the_larger_comes_first() -> None:
    found = budgets_today([standing(1, 10, 5), standing(2, 1000, 500), standing(3, 1, 1)])
    assert [budget.automation_id for budget in found.most_used] == ["bot-3", "bot-2", "bot-1"]

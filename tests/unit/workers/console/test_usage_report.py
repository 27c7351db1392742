"""Usage reports: ranges, what is left over, cells of an export."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import PlatformError
from infra.totals import SUMMED
from workers.console.usage_report import DAILY, FORMULA, Days, Usage, cell, rest


def usage(attempts: int, cost: int) -> Usage:
    sums = dict.fromkeys(SUMMED, 0) | {"attempts": attempts, "cost_nanousd": cost}
    daily = [dict.fromkeys(DAILY, 0) | {"attempts": attempts, "cost_nanousd": cost}]
    return Usage("bot", "subject", "label", sums, daily)


def test_a_range_has_its_first_and_its_last_day() -> None:
    assert list(Days(date(2026, 2, 27), date(2026, 3, 1))) == ["2026-02-27", "2026-02-28", "2026-03-01"]
    assert list(Days(date(2026, 1, 1), date(2026, 1, 1))) == ["2026-01-01"]
    assert len(list(Days(date(2024, 1, 1), date(2024, 12, 31)))) == 366


@pytest.mark.parametrize(
    ("first", "last"),
    [(date(2026, 1, 2), date(2026, 1, 1)), (date(2025, 1, 1), date(2026, 1, 2)), (date.min, date.max)],
)
def test_a_range_is_neither_empty_nor_longer_than_a_year(first: date, last: date) -> None:
    with pytest.raises(PlatformError):
        Days(first, last)


def test_what_is_left_over_is_the_total_without_what_is_named() -> None:
    others = rest(usage(10, 100), [usage(3, 30), usage(2, 20)])
    assert others is not None
    assert (others.sums["attempts"], others.sums["cost_nanousd"]) == (5, 50)
    assert others.daily[0]["cost_nanousd"] == 50


def test_nothing_is_left_over_where_all_is_named() -> None:
    assert rest(usage(5, 50), [usage(5, 50)]) is None


@given(st.text())
def test_no_cell_begins_as_a_formula_does(text: str) -> None:
    written = str(cell(text))
    assert not written.startswith(FORMULA)
    assert written.removeprefix("'") == text.removeprefix("'") or written == text


def test_numbers_are_left_as_they_are() -> None:
    assert cell(-5) == -5

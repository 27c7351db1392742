"""Numbers as people read them."""

from datetime import UTC, datetime

import pytest

from workers.console.pages import figures


@pytest.mark.parametrize(
    ("nanousd", "shown"),
    [
        (0, "$0.00"),
        (19_050, "$0.000019"),
        (1_234_000, "$0.0012"),
        (999_900_000, "$0.9999"),
        (1_000_000_000, "$1.00"),
        (1_234_567_890_000, "$1,234.57"),
    ],
)
def test_money_has_more_digits_the_smaller_it_is(nanousd: int, shown: str) -> None:
    assert figures.money(nanousd) == shown


@pytest.mark.parametrize(
    ("nanousd", "shown"),
    [
        (19_050, "$0.000019"),
        (50_000_000, "$0.05"),
        (750_000_000, "$0.75"),
        (12_500_000_000, "$12.50"),
        (50_000_000_000, "$50"),
        (4_000_000_000_000, "$4,000"),
        (250_000_000_000_000, "$250k"),
    ],
)
def test_a_limit_is_short(nanousd: int, shown: str) -> None:
    assert figures.short_money(nanousd) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (9_999, "9,999"), (40_000, "40.0k"), (266_400, "266k"), (2_000_000, "2.0M"), (7.2e9, "7.2B")],
)
def test_large_numbers_are_compact(number: float, shown: str) -> None:
    assert figures.compact(number) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (None, "—"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1_250, "1.2 s"),
        (59_900, "60 s"),
        (61_000, "1 min 1 s"),
        (3_660_000, "1 h 1 min"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_spans_of_time_have_their_largest_units(milliseconds: float | None, shown: str) -> None:
    assert figures.duration(milliseconds) == shown


def test_one_of_something_has_no_plural() -> None:
    assert [figures.counted(number, "call") for number in (0, 1, 1_200)] == [
        "0 calls",
        "1 call",
        "1,200 calls",
    ]


def test_small_shares_keep_a_digit() -> None:
    assert [figures.percent(share) for share in (0, 0.004, 0.0994, 0.1, 1)] == [
        "0%",
        "0.4%",
        "9.9%",
        "10%",
        "100%",
    ]


def test_times_go_to_the_browser_in_utc() -> None:
    assert figures.iso(datetime(2026, 3, 10, 12, 0, tzinfo=UTC)) == "2026-03-10T12:00:00Z"
    assert figures.iso(None) is None

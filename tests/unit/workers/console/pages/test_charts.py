"""Options of charts: what is drawn, and that no name from outside becomes the name of a field."""

from collections.abc import Iterator
from datetime import date
from typing import Any

from infra.totals import SUMMED
from workers.console.pages.charts import stacked_bars, waterfall
from workers.console.pages.usage import MOST_CHARTED, chart_of
from workers.console.usage_report import Days, Dimension, Report, Usage

#: NiceGUI would run what stands under a field of this name.
CODE = ":alert(1)"


def names_of_fields(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from names_of_fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from names_of_fields(inner)


def usage(subject: str, cost: int) -> Usage:
    sums = dict.fromkeys(SUMMED, 0) | {"cost_nanousd": cost, "attempts": 1}
    day = {"attempts": 1, "total_tokens": 0, "cost_nanousd": cost}
    return Usage(None, subject, subject, sums, [day])


def report(*rows: Usage) -> Report:
    total = usage("", sum(row.sums["cost_nanousd"] for row in rows))
    days = list(Days(date(2026, 3, 10), date(2026, 3, 10)))
    return Report(Dimension.USER, days, list(rows), None, total)


def test_no_name_from_outside_names_a_field() -> None:
    for options in (
        stacked_bars([CODE], [(CODE, [1.0], "#fff")], "$"),
        waterfall([(CODE, 0, 5, "#fff")]),
        chart_of(report(usage(CODE, 5)), "cost_nanousd"),
    ):
        assert CODE in repr(options)
        assert not [name for name in names_of_fields(options) if name.startswith(":")]


def test_bars_show_the_dearest_by_themselves_and_the_rest_as_one() -> None:
    rows = [usage(f"u-{number}", 1_000_000_000) for number in range(MOST_CHARTED + 3)]
    series = chart_of(report(*rows), "cost_nanousd")["series"]
    assert [one["name"] for one in series][-1] == "others"
    assert [one["data"] for one in series] == [[1.0]] * MOST_CHARTED + [[3.0]]


def test_a_waterfall_begins_each_bar_where_its_step_began() -> None:
    options = waterfall([("in the lane", 0, 12, "#fff"), ("1. Primary", 12, 800, "#fff")])
    hidden, shown = options["series"]
    assert hidden["data"] == [0, 12]
    assert [bar["value"] for bar in shown["data"]] == [12, 800]

"""Usage: what a range of days used and cost, over time and by any dimension; a table of it, and CSV."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from infra.errors import PlatformError
from workers.console.pages.charts import OTHERS, PALETTE, stacked_bars
from workers.console.pages.figures import NANO, compact, count, money, percent
from workers.console.pages.grid import Column, Grid, Row
from workers.console.pages.layout import Empty, heading, panel
from workers.console.pages.live import Live
from workers.console.pages.visit import Visit, say, sentence
from workers.console.usage_report import Days, Dimension, Report, Usage

DIMENSIONS = {
    Dimension.AUTOMATION.value: "Automation",
    Dimension.KEY.value: "Key",
    Dimension.MODEL.value: "Model",
    Dimension.USER.value: "User",
}
MEASURES = {"cost_nanousd": "Cost", "total_tokens": "Tokens", "attempts": "Calls"}
RANGES = {7: "7 days", 30: "30 days", 90: "90 days", 365: "1 year"}
#: Subjects that the chart shows by themselves; the rest is one bar.
MOST_CHARTED = len(PALETTE)
#: Subjects of the table; the rest is one line.
MOST_LISTED = 200
#: How often a report is read anew, in seconds.
EVERY_S = 30.0
COLUMNS = [
    Column("name", "", "text", note="owner"),
    Column("calls", "Calls", "number"),
    Column("failed", "Failed", "number"),
    Column("prompt", "Tokens in", "number", note="cached"),
    Column("completion", "Tokens out", "number"),
    Column("share", "Share", "number"),
    Column("cost", "Cost", "number", note="unpriced"),
]


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _UsagePage(visit, await _today(visit))
    page.lay_out()
    await page.live.start()


async def _today(visit: Visit) -> date:
    return (await visit.services.mongo.server_time()).date()


class _UsagePage:
    def __init__(self, visit: Visit, today: date) -> None:
        self._visit = visit
        self._by = Dimension.AUTOMATION
        self._measure = "cost_nanousd"
        self._automation = visit.asked("automation")
        self._days = Days(today - timedelta(days=29), today)

    def lay_out(self) -> None:
        with ui.element("div").classes("kw-bar-top"):
            heading("Usage", "From the books: days are UTC, money is what the provider charges.")
            self._csv = ui.element("a").classes("kw-csv").props("download")
            with self._csv:
                ui.icon("download")
                ui.label("CSV")
        self.live = Live(self._visit, self._refresh, EVERY_S)
        with ui.element("div").classes("kw-filters"):
            ui.toggle(DIMENSIONS, value=self._by.value, on_change=self._choose_dimension).classes(
                "kw-segment"
            ).props("unelevated no-caps toggle-color=primary")
            ui.toggle(MEASURES, value=self._measure, on_change=self._choose_measure).classes(
                "kw-segment"
            ).props("unelevated no-caps toggle-color=primary")
            ui.element("div").classes("kw-grow")
            ui.select(RANGES, value=30, on_change=self._choose_range).props(
                'outlined dense aria-label="Range"'
            ).classes("kw-select")
            self._first = self._date("From", self._days.first)
            self._last = self._date("To", self._days.last)
        with panel("") as self._chart_panel:
            self._title = ui.label("").classes("kw-tile-value")
            self._chart = ui.echart(stacked_bars([], [])).classes("kw-chart kw-tall")
        with panel("", tight=True):
            self._none = Empty(
                "bar_chart",
                "Nothing was used",
                "Calls are in the books a moment after they end. Choose another range.",
            )
            self._grid = Grid(COLUMNS, label="Usage", on_ask=self._show_table)
        self._report: Report | None = None

    def _date(self, label: str, value: date) -> ui.input:
        field = ui.input(label, value=value.isoformat()).props("outlined dense type=date")
        field.classes("kw-date").on("change", self._choose_dates)
        return field

    async def _choose_dimension(self, event: Any) -> None:
        self._by = Dimension(event.value)
        self._grid.first_page()
        await self.live.now()

    async def _choose_measure(self, event: Any) -> None:
        self._measure = event.value if event.value in MEASURES else "cost_nanousd"
        await self.live.now()

    async def _choose_range(self, event: Any) -> None:
        today = await _today(self._visit)
        self._days = Days(today - timedelta(days=int(event.value) - 1), today)
        self._first.value, self._last.value = self._days.first.isoformat(), today.isoformat()
        await self.live.now()

    async def _choose_dates(self) -> None:
        try:
            self._days = Days(date.fromisoformat(self._first.value), date.fromisoformat(self._last.value))
        except PlatformError as error:
            say(sentence(str(error)), good=False)
        except ValueError:
            say("A date is missing.", good=False)
        else:
            await self.live.now()

    async def _refresh(self) -> None:
        self._report = await self._visit.services.usage.read(
            self._by, self._days, self._automation, most=MOST_LISTED
        )
        report = self._report
        self._csv.props["href"] = self._address_of_csv()
        self._chart_panel.set_visibility(bool(report.rows))
        self._none.set_visibility(not report.rows)
        self._grid.set_visibility(bool(report.rows))
        self._title.text = _in_words(self._measure, report.total.sums)
        options = chart_of(report, self._measure)
        if options != self._chart.options:
            self._chart.options.clear()
            self._chart.options.update(options)
            self._chart.update()
        await self._show_table()

    async def _show_table(self) -> None:
        if self._report is None:
            return
        asked, report = self._grid.asked, self._report
        rows = [*report.rows, *([report.others] if report.others else [])]
        part = rows[asked.skip : asked.skip + asked.size]
        total = report.total.sums["cost_nanousd"]
        shown = [_row(number, usage, total) for number, usage in enumerate(part, start=asked.skip)]
        self._grid.show(shown, len(rows))

    def _address_of_csv(self) -> str:
        query = {"by": self._by.value, "first": self._days.first, "last": self._days.last}
        if self._automation is not None:
            query["automation_id"] = self._automation
        return f"/api/usage.csv?{urlencode(query)}"


def chart_of(report: Report, measure: str) -> dict[str, Any]:
    """Stacked bars of a report: the dearest by themselves, the rest as one."""
    scale: Callable[[int], float] = (lambda value: value / NANO) if measure == "cost_nanousd" else float
    named = report.rows[:MOST_CHARTED]
    series: list[tuple[str, Sequence[float], str]] = [
        (_name(usage), [scale(day[measure]) for day in usage.daily], PALETTE[index])
        for index, usage in enumerate(named)
    ]
    rest = [
        day[measure] - sum(usage.daily[index][measure] for usage in named)
        for index, day in enumerate(report.total.daily)
    ]
    if any(rest):
        series.append(("others", [scale(value) for value in rest], OTHERS))
    labels = [date.fromisoformat(day).strftime("%b %-d") for day in report.days]
    return stacked_bars(labels, series, "$" if measure == "cost_nanousd" else "")


def _row(number: int, usage: Usage, total: int) -> Row:
    sums = usage.sums
    owner = usage.automation_id if usage.automation_id not in {None, usage.subject} else ""
    failed = sums["attempts"] - sums["succeeded"]
    return {
        "key": number,
        "name": usage.label or usage.subject,
        "owner": owner,
        "calls": count(sums["attempts"]),
        "failed": f"{count(failed)} · {percent(failed / sums['attempts'])}" if failed else "0",
        "prompt": count(sums["prompt_tokens"]),
        "cached": f"{compact(sums['cached_tokens'])} cached" if sums["cached_tokens"] else "",
        "completion": count(sums["completion_tokens"]),
        "share": percent(sums["cost_nanousd"] / total) if total else "—",
        "cost": money(sums["cost_nanousd"]),
        "unpriced": f"{count(sums['unpriced'])} without a price" if sums["unpriced"] else "",
    }


def _name(usage: Usage) -> str:
    if usage.automation_id in {None, usage.subject}:
        return usage.label or usage.subject
    return f"{usage.automation_id} / {usage.label}"


def _in_words(measure: str, sums: dict[str, int]) -> str:
    if measure == "cost_nanousd":
        return money(sums[measure])
    return f"{compact(sums[measure])} {'tokens' if measure == 'total_tokens' else 'calls'}"

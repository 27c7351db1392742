"""Overview: how much is asked and answered now, what it costs, how long it takes, and what is in trouble."""

from typing import Any

from nicegui import ui

from infra.mongo import Document
from workers.console.overview import BudgetsToday, Overview
from workers.console.pages.alerts import alert_name
from workers.console.pages.charts import TONES, stacked_bars
from workers.console.pages.figures import (
    compact,
    count,
    counted,
    duration,
    iso,
    money,
    percent,
    rate,
    short_money,
)
from workers.console.pages.layout import Empty, heading, local_time, meter, panel
from workers.console.pages.live import Live
from workers.console.pages.tones import severity_chip
from workers.console.pages.visit import Visit

#: Outcomes in the order in which they are stacked; what is not here stands on top.
STACK = {
    "ok": TONES["good"],
    "rate_limited": TONES["warn"],
    "quota_exhausted": "#c77d00",
    "auth_failed": "#c92a2a",
    "server_error": TONES["bad"],
    "timeout": "#9c5fe0",
    "connection_error": "#7048b6",
}
ELSE = TONES["idle"]


class Tile:
    """A figure with its name above and a line below."""

    def __init__(self, label: str, target: str) -> None:
        """Make an empty one that leads to a page."""
        with ui.link(target=target).classes("kw-tile") as self._box:
            ui.label(label).classes("kw-tile-label")
            self._value = ui.label("—").classes("kw-tile-value")
            self._note = ui.label("").classes("kw-tile-note")

    def show(self, value: str, note: str, *, alarm: bool = False) -> None:
        """Show a figure; in an alarm's colour where somebody should look."""
        self._value.text = value
        self._note.text = note
        self._box.classes(add="kw-alarm" if alarm else "", remove="" if alarm else "kw-alarm")


async def build(visit: Visit) -> None:
    """Make the page."""
    heading("Overview", "The last minute, and the UTC day so far.")
    view = _View(visit)
    live = Live(visit, view.refresh)
    view.lay_out()
    await live.start()


class _View:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._alerts: list[Document] = []
        self._budgets: BudgetsToday | None = None

    def lay_out(self) -> None:
        with ui.element("div").classes("kw-tiles"):
            self._asked = Tile("Requests a second", "/requests")
            self._waiting = Tile("Waiting", "/queues")
            self._wait = Tile("Queue wait, median", "/requests")
            self._provider = Tile("Provider time, median", "/keys")
            self._spent = Tile("Spent today", "/usage")
            self._tokens = Tile("Tokens today", "/usage")
            self._keys = Tile("Keys in use", "/keys")
            self._dead = Tile("Dead letters", "/dead-letters")
        with ui.element("div").classes("kw-columns"):
            with ui.element("div").classes("kw-stack"):
                with panel("Calls by outcome", "each 5 seconds of the last minute"):
                    self._chart = ui.echart(stacked_bars([], [])).classes("kw-chart")
                with panel("Daily budgets", "by how much of them is spent", tight=True):
                    self._budget_list = ui.element("div").classes("kw-list")
            with panel("Open alerts", tight=True):
                self._list = ui.element("div").classes("kw-list")

    async def refresh(self) -> None:
        seen = await self._visit.services.overviews.read()
        alerts = await self._visit.shared.alerts()
        self._show_tiles(seen)
        self._show_chart(seen)
        if seen.budgets_today != self._budgets or not self._budget_list.default_slot.children:
            self._budgets = seen.budgets_today
            self._budget_list.clear()
            with self._budget_list:
                _show_budgets(seen.budgets_today)
        if alerts != self._alerts or not self._list.default_slot.children:
            self._alerts = alerts
            self._list.clear()
            with self._list:
                _show_alerts(alerts)

    def _show_tiles(self, seen: Overview) -> None:
        today = seen.today
        failed = sum(number for outcome, number in seen.outcomes.items() if outcome != "ok")
        answers = f"{rate(seen.answers_per_s)} answers/s"
        self._asked.show(rate(seen.requests_per_s), f"{answers} · {counted(failed, 'failed call')}")
        workers = counted(seen.workers, "worker")
        self._waiting.show(
            count(seen.waiting), f"{count(seen.in_hand)} in hand of {workers}", alarm=seen.workers == 0
        )
        self._wait.show(duration(seen.queue_wait.p50_ms), f"p95 {duration(seen.queue_wait.p95_ms)}")
        provider = seen.provider_time
        self._provider.show(duration(provider.p50_ms), f"p95 {duration(provider.p95_ms)}")
        self._spent.show(money(today["cost_nanousd"]), _against_budget(seen))
        self._tokens.show(
            compact(today["total_tokens"]),
            f"{compact(today['prompt_tokens'])} in · {compact(today['completion_tokens'])} out",
        )
        active, total = seen.keys.get("active", 0), sum(seen.keys.values())
        bad = seen.keys.get("error", 0)
        self._keys.show(f"{count(active)} of {count(total)}", _troubles(seen.keys), alarm=bad > 0)
        self._dead.show(count(seen.dead), f"{counted(seen.unbooked, 'event')} on the way to the books",
                        alarm=seen.dead > 0)  # fmt: skip

    def _show_chart(self, seen: Overview) -> None:
        names = list(STACK) + sorted({name for part in seen.recent for name in part.outcomes} - STACK.keys())
        there = [name for name in names if name == "ok" or seen.outcomes.get(name)]
        labels = [f"-{int((seen.at - part.at).total_seconds())} s" for part in seen.recent]
        options: dict[str, Any] = stacked_bars(
            labels,
            [
                (
                    name.replace("_", " "),
                    [part.outcomes.get(name, 0) for part in seen.recent],
                    STACK.get(name, ELSE),
                )
                for name in there
            ],
        )
        if options != self._chart.options:
            self._chart.options.clear()
            self._chart.options.update(options)
            self._chart.update()


def _troubles(keys: dict[str, int]) -> str:
    parts = [f"{keys[status]} {status}" for status in ("error", "exhausted", "disabled") if keys.get(status)]
    return " · ".join(parts) or ("all is well" if keys else "add one on the page Keys")


def _against_budget(seen: Overview) -> str:
    """What was spent of daily budgets; without any, how many calls it was."""
    budgets, unpriced = seen.budgets_today, seen.today["unpriced"]
    if budgets.count:
        note = f"{money(budgets.spent_nanousd)} of {short_money(budgets.limit_nanousd)} budgeted"
    else:
        note = counted(seen.today["attempts"], "call")
    return note + (f" · {count(unpriced)} without a price" if unpriced else "")


def _show_budgets(budgets: BudgetsToday) -> None:
    if not budgets.count:
        hint = "An automation has one from its panel on the page Automations, or: keyway budgets set"
        Empty("savings", "No automation has a daily budget", hint)
        return
    for budget in budgets.most_used:
        share = budget.spent_nanousd / budget.limit_nanousd
        with ui.element("div").classes("kw-list-row"):
            with ui.element("div").classes("kw-list-main"):
                ui.link(budget.automation_id, f"/automations?text={budget.automation_id}")
                meter(share, f"Spent of the daily budget of {budget.automation_id}")
            with ui.element("div").classes("kw-list-side"):
                ui.label(f"{money(budget.spent_nanousd)} of {short_money(budget.limit_nanousd)}")
                what = ("calls are stopped" if budget.hard else "spent") if share >= 1 else percent(share)
                ui.label(what).classes("kw-muted")
    if budgets.count > len(budgets.most_used):
        rest = counted(budgets.count - len(budgets.most_used), "other")
        ui.label(f"and {rest}, of which less is spent").classes("kw-muted kw-list-row")


def _show_alerts(alerts: list[Document]) -> None:
    if not alerts:
        Empty(
            "check_circle",
            "Nothing is in trouble",
            "Keys that stop, lanes that stand: told of here.",
        )
        return
    for alert in alerts:
        with ui.element("div").classes("kw-list-row"):
            with ui.element("div").classes("kw-list-main"):
                ui.label(alert_name(alert))
                ui.label(alert["reason"]).classes("kw-note")
            with ui.element("div").classes("kw-list-side"):
                tone = severity_chip(alert["severity"])["tone"]
                ui.label(str(alert["kind"]).replace("_", " ")).classes(f"kw-chip kw-{tone}")
                local_time(iso(alert["raised_at"]) or "").classes("kw-muted")

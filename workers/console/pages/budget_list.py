"""Budgets of one automation, its keys and its users: an admin sets and removes them."""

from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from workers.budgets.budget import Budget
from workers.budgets.registry import Standing, Subject
from workers.console.pages.budget_form import ask_for_budget
from workers.console.pages.dialogs import confirm, icon_button, plain
from workers.console.pages.figures import iso, money, percent, short_money
from workers.console.pages.grid import bar
from workers.console.pages.layout import local_time, meter
from workers.console.pages.visit import Visit


def budget_bar(standing: Standing) -> dict[str, Any]:
    """How much of a budget is spent, as a table shows it."""
    budget = standing.budget
    label = "today" if budget.window == "day" else "month"
    text = f"{percent(standing.spent / budget.limit)} of {short_money(budget.limit)}"
    return bar(label, standing.spent, budget.limit, text)


class BudgetList:
    """The part of an automation's panel that shows them."""

    def __init__(self, visit: Visit, automation_id: str) -> None:
        """Make an empty one."""
        self._visit, self._automation_id = visit, automation_id
        with ui.row(align_items="center", wrap=False).classes("full-width"):
            ui.label("Budgets").classes("text-weight-medium kw-grow")
            if visit.is_admin:
                plain("Set a budget", self._ask, icon="add")
        self._box = ui.element("div").classes("kw-list kw-flush")

    async def show(self) -> None:
        """Show them as they are now.

        Raises:
            NotFoundError: the automation is gone.
            PyMongoError: MongoDB is away or refused.
        """
        standings = await self._visit.services.budgets.list(self._automation_id)
        self._box.clear()
        with self._box:
            if not standings:
                ui.label("None: it may spend without a limit.").classes("kw-muted")
            for standing in standings:
                self._row(standing)

    def _row(self, standing: Standing) -> None:
        budget = standing.budget
        name = name_of(budget)
        with ui.element("div").classes("kw-list-row"):
            with ui.element("div").classes("kw-list-main"):
                ui.label(name)
                meter(standing.spent / budget.limit, name)
                with ui.row(align_items="baseline").classes("kw-note"):
                    what = "stops calls when spent" if budget.hard else "alerts only"
                    ui.label(f"{money(standing.spent)} of {short_money(budget.limit)} · {what}")
                    with ui.row(align_items="baseline", wrap=False).classes("kw-note"):
                        ui.label("anew")
                        local_time(iso(datetime.fromtimestamp(standing.until, UTC)) or "")
            if self._visit.is_admin:
                icon_button("edit", f"Change: {name}", lambda: self._change(budget))
                icon_button("delete", f"Remove: {name}", lambda: self._ask_to_remove(budget))

    async def _ask(self) -> None:
        query = {"automation_id": self._automation_id}
        found = self._visit.services.mongo.keys.find(query, {"alias": 1}).sort("alias", 1)
        aliases = [key["alias"] async for key in found]
        ask_for_budget(self._visit, self._automation_id, self.show, aliases=aliases)

    def _change(self, budget: Budget) -> None:
        ask_for_budget(self._visit, self._automation_id, self.show, budget=budget)

    def _ask_to_remove(self, budget: Budget) -> None:
        async def remove() -> None:
            changes = self._visit.services.budget_changes
            await self._visit.change(
                lambda actor: changes(actor).remove(Subject.of(budget), budget.window),
                f"Removed the {budget.name}.",
            )
            await self.show()

        title = f"Remove the {budget.name}?"
        confirm(title, "Calls are no longer counted against it, and its alerts are over.", "Remove", remove)


def name_of(budget: Budget) -> str:
    """Such as `Daily` or `Monthly · key Primary`."""
    window = "Daily" if budget.window == "day" else "Monthly"
    return window if budget.scope == "automation" else f"{window} · {budget.scope} {budget.label}"

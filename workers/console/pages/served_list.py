"""A table of automations with their lanes, searched, sorted and paged here: what two pages have in common."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from workers.console.pages.grid import Column, Grid, Row
from workers.console.pages.layout import Empty, panel
from workers.console.pages.live import Live
from workers.console.pages.shared import Served
from workers.console.pages.visit import Visit


@dataclass(frozen=True, slots=True)
class Wording:
    """What the table says of itself.

    Attributes:
        label: what it is a table of.
        field: what the search field says while it is empty.
        icon: of what stands there while nothing is found.
        no_match: while the search finds nothing.
        none_yet: while there is nothing.
        what_next: what to do about that.
    """

    label: str
    field: str
    icon: str
    no_match: str
    none_yet: str
    what_next: str


class ServedList:
    """The search field and the table."""

    def __init__(
        self,
        visit: Visit,
        live: Live,
        wording: Wording,
        *,
        columns: list[Column],
        orders: Mapping[str, Callable[[Served], Any]],
        rows: Callable[[list[Served]], Awaitable[list[Row]]],
        act: Callable[[str, str], Awaitable[None]],
        sort_by: str | None = None,
        descending: bool = False,
    ) -> None:
        """Lay it out.

        Args:
            visit: the page; its address may say what to search for (`text`).
            live: what brings the page up to date.
            wording: what it says of itself.
            columns: of the table; admins have one more, with actions.
            orders: by what a column sorts; `name` is the order where none was chosen.
            rows: makes the rows of what is shown.
            act: called with the name of an action and the automation's id.
            sort_by: the column that it is sorted by at first.
            descending: whether the largest comes first.
        """
        self._visit, self._live, self._wording = visit, live, wording
        self._orders, self._rows = orders, rows
        self._text = visit.asked("text") or ""
        with ui.element("div").classes("kw-filters"):
            search = ui.input(placeholder=wording.field, value=self._text, on_change=self._search)
            search.props(f'outlined dense debounce=250 clearable aria-label="Search {wording.label.lower()}"')
            search.classes("kw-search")
        with panel("", tight=True):
            self._none = Empty(wording.icon)
            self._grid = Grid(
                [*columns, Column("actions", "", "actions")] if visit.is_admin else columns,
                label=wording.label,
                sort_by=sort_by,
                descending=descending,
                on_ask=live.now,
                on_act=live.acting(act),
            )

    async def refresh(self) -> list[Served]:
        """Show what was asked for.

        Returns:
            All automations with their lanes, shown or not.
        """
        asked, every = self._grid.asked, await self._visit.shared.automations()
        found = [served for served in every if self._text.casefold() in served.automation.automation_id]
        found.sort(key=self._orders[asked.sort_by or "name"], reverse=asked.descending)
        part = found[asked.skip : asked.skip + asked.size]
        self._grid.show(await self._rows(part), len(found))
        self._grid.set_visibility(bool(found))
        self._none.set_visibility(not found)
        if not found and self._text:
            self._none.say(self._wording.no_match, "Search for less.")
        elif not found:
            self._none.say(self._wording.none_yet, self._wording.what_next)
        return every

    async def again(self) -> None:
        """Show what has been changed just now."""
        self._visit.shared.automations.forget()
        await self._live.now()

    async def _search(self, event: Any) -> None:
        self._text = event.value or ""
        self._grid.first_page()
        await self._live.now()

"""Automations: their keys, what waits in their lanes, which of their processes are alive."""

from collections.abc import Callable
from typing import Any

from nicegui import ui

from workers.console.pages.automation_drawer import open_automation
from workers.console.pages.automation_forms import add_automation
from workers.console.pages.dialogs import confirm, primary
from workers.console.pages.figures import count, iso
from workers.console.pages.grid import Column, Grid, Row, action
from workers.console.pages.layout import Empty, heading, panel
from workers.console.pages.live import Live
from workers.console.pages.shared import Served
from workers.console.pages.tones import lane_chip
from workers.console.pages.visit import Visit, say

COLUMNS = [
    Column("name", "Automation", "link", sortable=True),
    Column("state", "State", "chip", sortable=True, note="rotation"),
    Column("keys", "Keys", "number", sortable=True, note="keys_note"),
    Column("waiting", "Waiting", "number", sortable=True),
    Column("in_hand", "In flight", "number", sortable=True),
    Column("processes", "Its processes", "number", sortable=True, note="versions"),
    Column("seen", "Last heartbeat", "time", sortable=True),
]
ORDERS: dict[str, Callable[[Served], Any]] = {
    "name": lambda served: served.automation.automation_id,
    "state": lambda served: (served.automation.enabled, not served.automation.paused),
    "keys": lambda served: sum(served.automation.keys.values()),
    "waiting": lambda served: served.lane.state.waiting,
    "in_hand": lambda served: served.lane.state.in_hand,
    "processes": lambda served: len(served.automation.processes),
    "seen": lambda served: str(served.automation.last_heartbeat_at or ""),
}
NONE_YET = (
    "An automation is whoever asks for generations: add one, and give its service token to the program. "
    "The same by command: keyway automations add NAME"
)


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _Automations(visit)
    page.lay_out()
    await page.live.start()


class _Automations:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._text = visit.asked("text") or ""

    def lay_out(self) -> None:
        with ui.element("div").classes("kw-bar-top"):
            heading("Automations", "Who asks for generations, with which keys, and who of them is there.")
            if self._visit.is_admin:
                primary("Add automation", lambda: add_automation(self._visit, self._again), icon="add")
        self.live = Live(self._visit, self._refresh)
        with ui.element("div").classes("kw-filters"):
            search = ui.input(placeholder="Automation", value=self._text, on_change=self._search)
            search.props('outlined dense debounce=250 clearable aria-label="Search automations"')
            search.classes("kw-search")
        with panel("", tight=True):
            self._none = Empty("smart_toy")
            columns = [*COLUMNS, Column("actions", "", "actions")] if self._visit.is_admin else COLUMNS
            self._grid = Grid(
                columns, label="Automations", on_ask=self.live.now, on_act=self.live.acting(self._act)
            )

    async def _search(self, event: Any) -> None:
        self._text = event.value or ""
        self._grid.first_page()
        await self.live.now()

    async def _again(self) -> None:
        self._visit.shared.automations.forget()
        await self.live.now()

    async def _refresh(self) -> None:
        asked = self._grid.asked
        found = [
            served
            for served in await self._visit.shared.automations()
            if self._text.casefold() in served.automation.automation_id
        ]
        found.sort(key=ORDERS[asked.sort_by or "name"], reverse=asked.descending)
        part = found[asked.skip : asked.skip + asked.size]
        self._grid.show([row_of(served, with_actions=self._visit.is_admin) for served in part], len(found))
        self._grid.set_visibility(bool(found))
        self._none.set_visibility(not found)
        if not found and self._text:
            self._none.say("No automation matches", "Search for less.")
        elif not found:
            self._none.say("There are no automations yet", NONE_YET)

    async def _act(self, name: str, automation_id: str) -> None:
        found = [
            s for s in await self._visit.shared.automations() if s.automation.automation_id == automation_id
        ]
        if not found:
            say("That automation is gone.", good=False)
        elif name == "open":
            open_automation(self._visit, found[0], self._again)
        elif name == "disable":
            confirm(
                f"Disable {automation_id}?",
                "Its requests are answered with `automation_disabled` until it is enabled again.",
                "Disable",
                lambda: self._change(automation_id, {"enabled": False}, "is disabled"),
            )
        elif name in CHANGES:
            await self._change(automation_id, *CHANGES[name])

    async def _change(self, automation_id: str, fields: dict[str, int | None], done: str) -> None:
        await change_automation(self._visit, automation_id, fields, done)
        await self._again()


#: What each action changes, and what is said of it.
CHANGES: dict[str, tuple[dict[str, int | None], str]] = {
    "enable": ({"enabled": True}, "is enabled"),
    "pause": ({"paused": True}, "is paused: its requests wait"),
    "resume": ({"paused": False}, "goes on"),
}


async def change_automation(
    visit: Visit, automation_id: str, fields: dict[str, int | None], done: str
) -> None:
    """Change an automation's settings, `enabled` or `paused`."""
    await visit.change(
        lambda actor: visit.services.automation_changes(actor).change(automation_id, fields),
        f"{automation_id} {done}.",
    )


def row_of(served: Served, *, with_actions: bool) -> Row:
    """An automation as the table shows it."""
    automation, lane = served.automation, served.lane
    keys = automation.keys
    others = [f"{keys[status]} {status}" for status in ("error", "exhausted", "disabled") if keys.get(status)]
    versions = sorted({process.version for process in automation.processes})
    shown: Row = {
        "key": automation.automation_id,
        "name": automation.automation_id,
        "state": lane_chip(
            enabled=automation.enabled, paused=automation.paused, consumers=lane.state.consumers
        ),
        "rotation": "its token rotates" if automation.rotation else "",
        "keys": count(sum(keys.values())),
        "keys_note": " · ".join(others),
        "waiting": count(lane.state.waiting),
        "in_hand": count(lane.state.in_hand),
        "processes": count(len(automation.processes)),
        "versions": ", ".join(versions)[:60],
        "seen": iso(automation.last_heartbeat_at),
    }
    if with_actions:
        pause = ("resume", "Resume", "play_arrow") if automation.paused else ("pause", "Pause", "pause")
        switch = ("disable", "Disable", "block") if automation.enabled else ("enable", "Enable", "check")
        shown["actions"] = [action(*pause), action(*switch)]
    return shown

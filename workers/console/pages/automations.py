"""Automations: their keys, what waits in their lanes, what they may cost, and who of them is there."""

from collections.abc import Callable
from typing import Any

from nicegui import ui

from workers.budgets.registry import Standing
from workers.console.automations import AutomationView
from workers.console.pages.automation_drawer import open_automation
from workers.console.pages.automation_forms import add_automation
from workers.console.pages.budget_list import budget_bar
from workers.console.pages.dialogs import confirm, primary
from workers.console.pages.figures import count, iso
from workers.console.pages.grid import Column, Row, action
from workers.console.pages.layout import heading
from workers.console.pages.live import Live
from workers.console.pages.served_list import ServedList, Wording
from workers.console.pages.shared import Served
from workers.console.pages.tones import lane_chip
from workers.console.pages.visit import Visit, say

COLUMNS = [
    Column("name", "Automation", "link", sortable=True),
    Column("state", "State", "chip", sortable=True, note="rotation"),
    Column("keys", "Keys", "number", sortable=True, note="keys_note"),
    Column("waiting", "Waiting", "number", sortable=True),
    Column("in_hand", "In flight", "number", sortable=True),
    Column("budget", "Budget", "bars"),
    Column("seen", "Last heartbeat", "time", sortable=True, note="processes"),
]
ORDERS: dict[str, Callable[[Served], Any]] = {
    "name": lambda served: served.automation.automation_id,
    "state": lambda served: (served.automation.enabled, not served.automation.paused),
    "keys": lambda served: sum(served.automation.keys.values()),
    "waiting": lambda served: served.lane.state.waiting,
    "in_hand": lambda served: served.lane.state.in_hand,
    "seen": lambda served: str(served.automation.last_heartbeat_at or ""),
}
WORDING = Wording(
    label="Automations",
    field="Automation",
    icon="smart_toy",
    no_match="No automation matches",
    none_yet="There are no automations yet",
    what_next="An automation is whoever asks for generations: add one, and give its service token to the "
    "program. The same by command: keyway automations add NAME",
)


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _Automations(visit)
    page.lay_out()
    await page.live.start()


class _Automations:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    def lay_out(self) -> None:
        with ui.element("div").classes("kw-bar-top"):
            heading("Automations", "Who asks for generations, with which keys, and what it may cost.")
            if self._visit.is_admin:
                primary("Add automation", self._add, icon="add")
        self.live = Live(self._visit, self._refresh)
        self._list = ServedList(
            self._visit, self.live, WORDING, columns=COLUMNS, orders=ORDERS, rows=self._rows, act=self._act
        )

    def _add(self) -> None:
        add_automation(self._visit, self._list.again)

    async def _refresh(self) -> None:
        await self._list.refresh()

    async def _rows(self, part: list[Served]) -> list[Row]:
        ids = [served.automation.automation_id for served in part]
        own = {"automation_id": {"$in": ids}, "scope": "automation"}
        budgets: dict[str, list[Standing]] = {automation_id: [] for automation_id in ids}
        for standing in await self._visit.services.budgets.standings(own):
            budgets[standing.budget.automation_id].append(standing)
        return [
            row_of(served, budgets[served.automation.automation_id], with_actions=self._visit.is_admin)
            for served in part
        ]

    async def _act(self, name: str, automation_id: str) -> None:
        found = [
            s for s in await self._visit.shared.automations() if s.automation.automation_id == automation_id
        ]
        if not found:
            say("That automation is gone.", good=False)
        elif name == "open":
            await open_automation(self._visit, found[0], self._list.again)
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
        await self._list.again()


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


def row_of(served: Served, budgets: list[Standing], *, with_actions: bool) -> Row:
    """An automation as the table shows it, with its own budgets."""
    automation, lane = served.automation, served.lane
    keys = automation.keys
    others = [f"{keys[status]} {status}" for status in ("error", "exhausted", "disabled") if keys.get(status)]
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
        "budget": [budget_bar(standing) for standing in budgets],
        "processes": _processes(automation),
        "seen": iso(automation.last_heartbeat_at),
    }
    if with_actions:
        pause = ("resume", "Resume", "play_arrow") if automation.paused else ("pause", "Pause", "pause")
        switch = ("disable", "Disable", "block") if automation.enabled else ("enable", "Enable", "check")
        shown["actions"] = [action(*pause), action(*switch)]
    return shown


def _processes(automation: AutomationView) -> str:
    """How many are alive, and whether they are of different versions, as while one is rolled out."""
    alive, versions = len(automation.processes), len({p.version for p in automation.processes})
    if not alive:
        return "none is alive" if automation.last_heartbeat_at else ""
    text = "1 process" if alive == 1 else f"{count(alive)} processes"
    return text if versions == 1 else f"{text}, {versions} versions"

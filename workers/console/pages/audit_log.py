"""The audit log: who changed what, from what to what."""

import json
from datetime import datetime
from typing import Any

from nicegui import ui

from infra.mongo import Document
from workers.console.pages.dialogs import plain
from workers.console.pages.figures import iso
from workers.console.pages.grid import Column, Grid, Row
from workers.console.pages.layout import Empty, heading, panel
from workers.console.pages.live import Live
from workers.console.pages.visit import Visit

COLUMNS = [
    Column("at", "Time", "time"),
    Column("actor", "Who"),
    Column("action", "What", "mono"),
    Column("target", "Of what"),
    Column("change", "Change", "mono"),
]
#: Entries of one page.
MOST = 50
#: How often the newest page is read anew, in seconds.
EVERY_S = 5.0


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _AuditPage(visit)
    page.lay_out()
    await page.live.start()


class _AuditPage:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._actor: str | None = None
        self._target: str | None = None
        self._before: datetime | None = None
        self._older: datetime | None = None

    def lay_out(self) -> None:
        heading("Audit log", "Every change, by whom; never a secret.")
        self.live = Live(self._visit, self._refresh, EVERY_S)
        with ui.element("div").classes("kw-filters"):
            who = ui.input(placeholder="Who, such as console:ann", on_change=self._choose_actor)
            who.props('outlined dense debounce=300 clearable aria-label="Who"').classes("kw-search")
            what = ui.input(placeholder="Of what, such as billing-bot/Primary", on_change=self._choose_target)
            what.props('outlined dense debounce=300 clearable aria-label="Of what"').classes("kw-search")
        with panel("", tight=True):
            self._none = Empty("history", "No entry", "What operators change is noted here.")
            self._grid = Grid(COLUMNS, label="Audit log", paged=False)
        with ui.element("div").classes("kw-dialog-foot"):
            self._newest = plain("Newest", lambda: self._go(None), icon="first_page")
            self._next = plain("Older", lambda: self._go(self._older), icon="chevron_right")

    async def _choose_actor(self, event: Any) -> None:
        self._actor = (event.value or "").strip() or None
        await self._go(None)

    async def _choose_target(self, event: Any) -> None:
        self._target = (event.value or "").strip() or None
        await self._go(None)

    async def _go(self, before: datetime | None) -> None:
        self._before = before
        await self.live.now()

    async def _refresh(self) -> None:
        entries = await self._visit.services.audit.read(
            actor=self._actor, target=self._target, before=self._before, most=MOST
        )
        self._older = entries[-1]["at"] if len(entries) == MOST else None
        self._grid.show([_row(entry) for entry in entries])
        self._grid.set_visibility(bool(entries))
        self._none.set_visibility(not entries)
        self._next.set_enabled(self._older is not None)
        self._newest.set_enabled(self._before is not None)


def _row(entry: Document) -> Row:
    return {
        "key": str(entry["_id"]),
        "at": iso(entry["at"]),
        "actor": entry["actor"],
        "action": entry["action"],
        "target": entry["target"],
        "change": _change(entry["before"], entry["after"]),
    }


def _change(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """What changed, field by field."""
    old, new = before or {}, after or {}
    parts = []
    for name in (*new, *(name for name in old if name not in new)):
        if name in old and name in new and old[name] != new[name]:
            parts.append(f"{name}: {_text(old[name])} → {_text(new[name])}")
        elif (name in old) != (name in new):
            parts.append(f"{name}: {_text(new.get(name, old.get(name)))}")
    return ", ".join(parts)[:400] or "—"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)

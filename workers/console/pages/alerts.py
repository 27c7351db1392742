"""Alerts: what is in trouble, what was, and whether people were told."""

from typing import Any

from nicegui import ui

from infra.alerts import list_alerts
from infra.mongo import Document
from workers.console.pages.figures import iso
from workers.console.pages.grid import Column, Grid, Row, chip
from workers.console.pages.layout import Empty, heading, panel
from workers.console.pages.live import Live
from workers.console.pages.tones import severity_chip
from workers.console.pages.visit import Visit

COLUMNS = [
    Column("state", "State", "chip"),
    Column("kind", "Kind"),
    Column("of", "Of", note="reason"),
    Column("raised_at", "Since", "time"),
    Column("resolved_at", "Resolved", "time"),
    Column("delivery", "Notice", "chip"),
]
DELIVERIES = {
    "waiting": chip("being delivered", "info"),
    "delivered": chip("delivered", "good"),
    "given_up": chip("given up", "bad"),
    "no_target": chip("nobody to tell", "idle"),
    None: chip("none", "idle"),
}
#: Alerts that are shown, the newest.
MOST = 200
#: How often they are read anew, in seconds.
EVERY_S = 5.0


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _AlertsPage(visit)
    page.lay_out()
    await page.live.start()


class _AlertsPage:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._everything = False

    def lay_out(self) -> None:
        heading("Alerts", "What a person should know: raised once, and resolved when it is over.")
        self.live = Live(self._visit, self._refresh, EVERY_S)
        with ui.element("div").classes("kw-filters"):
            ui.switch("Resolved ones too", on_change=self._choose)
        with panel("", tight=True):
            self._none = Empty("check_circle", "Nothing is in trouble", "What is will be told of here.")
            self._grid = Grid(COLUMNS, label="Alerts", paged=False)

    async def _choose(self, event: Any) -> None:
        self._everything = bool(event.value)
        await self.live.now()

    async def _refresh(self) -> None:
        alerts = await list_alerts(self._visit.services.mongo, everything=self._everything, limit=MOST)
        self._grid.show([_row(alert) for alert in alerts])
        self._grid.set_visibility(bool(alerts))
        self._none.set_visibility(not alerts)


def alert_name(alert: Document) -> str:
    """Whose trouble it is, and of what."""
    automation_id, label = alert["automation_id"], alert["label"]
    return f"{automation_id} / {label}" if automation_id else str(label)


def _row(alert: Document) -> Row:
    is_open = alert["resolved_at"] is None
    return {
        "key": alert["_id"],
        "state": severity_chip(alert["severity"]) if is_open else chip("resolved", "good"),
        "kind": alert["kind"].replace("_", " "),
        "of": alert_name(alert),
        "reason": alert["reason"],
        "raised_at": iso(alert["raised_at"]),
        "resolved_at": iso(alert["resolved_at"]),
        "delivery": DELIVERIES[alert["delivery"]],
    }

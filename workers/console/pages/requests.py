"""Requests: those under way and those that ended, as they come; and search."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from nicegui import ui

from contracts.messages import Outcome
from workers.console.pages.dialogs import plain
from workers.console.pages.figures import compact, count, duration, iso, money
from workers.console.pages.grid import Column, Grid, Row, chip
from workers.console.pages.layout import Empty, heading, panel
from workers.console.pages.live import Live
from workers.console.pages.request_drawer import open_request
from workers.console.pages.shared import TAIL
from workers.console.pages.tones import REQUEST_TONES
from workers.console.pages.visit import Visit
from workers.console.request_log import RequestFilter
from workers.console.request_summary import RequestSummary, Status

STATUSES = {"": "Any status", **{status.value: status.value.capitalize() for status in Status}}
OUTCOMES = {"": "Any outcome", **{outcome.value: outcome.value.replace("_", " ") for outcome in Outcome}}
COLUMNS = [
    Column("at", "Time", "time"),
    Column("request", "Request", "link", note="automation"),
    Column("status", "Status", "chip", note="why"),
    Column("model", "Model", note="path"),
    Column("by", "Key", note="user"),
    Column("tokens", "Tokens", "number"),
    Column("cost", "Cost", "number"),
    Column("took", "Took", "number", note="waited"),
]
#: Between the automation and the request in a row's key; neither has one.
SEPARATOR = "\n"


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _Requests(visit)
    page.lay_out()
    await page.live.start()


class _Requests:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        status = visit.asked("status")
        self._wanted = RequestFilter(
            automation_id=visit.asked("automation"),
            request_id=visit.asked("request"),
            status=Status(status) if status in set(Status) else None,
        )
        self._older: datetime | None = None

    def lay_out(self) -> None:
        with ui.element("div").classes("kw-bar-top"):
            heading("Requests", "Those under way first. Prompts and answers are never shown.")
            self._state = ui.label("live").classes("kw-live")
        self.live = Live(self._visit, self._refresh)
        wanted = self._wanted
        with ui.element("div").classes("kw-filters"):
            self._field("Automation", "automation_id", wanted.automation_id).classes("kw-select")
            self._field("Request id", "request_id", wanted.request_id).classes("kw-search")
            self._field("User", "user_id", None).classes("kw-select")
            chosen = ui.select(
                STATUSES,
                value=wanted.status.value if wanted.status else "",
                on_change=lambda event: self._filter(status=Status(event.value) if event.value else None),
            )
            chosen.props('outlined dense aria-label="Status"').classes("kw-select")
            ended = ui.select(
                OUTCOMES, value="", on_change=lambda event: self._filter(outcome=event.value or None)
            )
            ended.props('outlined dense aria-label="Outcome of a call"').classes("kw-select")
        with panel("", tight=True):
            self._none = Empty("receipt_long")
            self._grid = Grid(COLUMNS, label="Requests", paged=False, on_act=self.live.acting(self._act))
            self._grid.classes("kw-ids")
        with ui.element("div").classes("kw-dialog-foot"):
            self._newest = plain("Newest", lambda: self._filter(before=None), icon="first_page")
            self._next = plain("Older", lambda: self._filter(before=self._older), icon="chevron_right")

    def _field(self, label: str, name: str, value: str | None) -> ui.input:
        field = ui.input(
            placeholder=label,
            value=value or "",
            on_change=lambda event: self._filter(**{name: (event.value or "").strip() or None}),
        )
        return field.props(f'outlined dense debounce=300 clearable aria-label="{label}"')

    async def _filter(self, **changes: Any) -> None:
        if "before" not in changes:
            changes["before"] = None
        self._wanted = replace(self._wanted, **changes)
        await self.live.now()

    async def _refresh(self) -> None:
        wanted = self._wanted
        if wanted == RequestFilter():
            page = await self._visit.shared.tail()
        else:
            page = await self._visit.services.requests.search(wanted, most=TAIL)
        self._older = page.before
        # A page of the past has no more news but those that end; the row key tells requests apart.
        rows = {row["key"]: row for row in map(row_of, page.requests)}
        self._grid.show(list(rows.values())[:100])
        self._grid.set_visibility(bool(rows))
        self._none.set_visibility(not rows)
        self._next.set_enabled(page.before is not None)
        self._newest.set_enabled(wanted.before is not None)
        self._state.text = "live" if wanted.before is None else "older ones"
        if not rows:
            self._say_why_none()

    def _say_why_none(self) -> None:
        if self._wanted != RequestFilter():
            self._none.say("No request matches", "Name less, or look for older ones.")
        else:
            self._none.say(
                "There are no requests yet",
                'They are seen here as they come. To send one: keyway generate AUTOMATION "Say hello"',
            )

    async def _act(self, name: str, key: str) -> None:
        automation_id, _, request_id = key.partition(SEPARATOR)
        if name == "open":
            await open_request(self._visit, automation_id, request_id)


def row_of(request: RequestSummary) -> Row:
    """A request as the table shows it."""
    timings = request.timings or {}
    waited = timings.get("queued_ms", 0) + timings.get("waited_ms", 0)
    took = timings.get("total_ms", request.latency_ms if request.attempts else None)
    return {
        "key": f"{request.automation_id}{SEPARATOR}{request.request_id}",
        "at": iso(request.at),
        "request": request.request_id,
        "automation": request.automation_id,
        "status": chip(request.status.value, REQUEST_TONES[request.status.value]),
        "why": _why(request),
        "model": request.model or "—",
        "path": request.path or "",
        "by": request.key_alias or "—",
        "user": request.user_id or "",
        "tokens": compact(request.total_tokens) if request.attempts else "—",
        "cost": money(request.cost_nanousd) if request.attempts else "—",
        "took": "—" if request.status is Status.RUNNING else duration(took),
        "waited": f"waited {duration(waited)}" if waited >= 100 else "",
    }


def _why(request: RequestSummary) -> str:
    """What is not as usual: the error's code, or calls that failed before one did not."""
    if request.code is not None:
        return request.code.replace("_", " ")
    failed = [outcome.replace("_", " ") for outcome in request.outcomes if outcome != Outcome.OK]
    if request.status is Status.FAILED:
        return failed[-1] if failed else ""
    return (
        f"after {failed[-1]}"
        if len(failed) == 1
        else (f"after {count(len(failed))} failed calls" if failed else "")
    )

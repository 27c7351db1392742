"""Keys: each with its status and why, what is used of its limits, how well it does, what it cost today."""

import time
from datetime import UTC, datetime

from nicegui import ui

from infra.errors import NotFoundError
from workers.console.key_table import KeyRow
from workers.console.leases import LeaseFilter
from workers.console.pages.dialogs import plain, primary
from workers.console.pages.figures import compact, count, duration, iso, money, percent
from workers.console.pages.grid import Column, Grid, Row, action, bar, chip, spark
from workers.console.pages.key_drawer import open_key
from workers.console.pages.key_forms import add_key
from workers.console.pages.key_import import import_keys
from workers.console.pages.layout import Empty, heading, panel
from workers.console.pages.lease_list import COLUMNS as LEASES
from workers.console.pages.lease_list import MOST_LEASES
from workers.console.pages.lease_list import row_of as lease_row
from workers.console.pages.live import Live
from workers.console.pages.tones import KEY_TONES
from workers.console.pages.visit import Visit, say, sentence
from workers.keys.facts import TIERS, KeyFilter, KeyView, key_of_id
from workers.keys.limits import used_in_window, used_today

STATUSES = {
    "": "Any status",
    "active": "Active",
    "exhausted": "Exhausted",
    "error": "Error",
    "disabled": "Disabled",
}
COLUMNS = [
    Column("alias", "Key", "link", sortable=True, note="owner"),
    Column("status", "Status", "chip", sortable=True, note="reason"),
    Column("use", "Used of its limits", "bars"),
    Column("latency", "Latency", "number", sortable=True, note="errors"),
    Column("spark", "Last calls", "spark"),
    Column("cost", "Today", "number", note="calls"),
]
#: No line ends here (U+2060).
JOINED = "\N{WORD JOINER}"
#: How often the last calls of the keys that are shown are read anew, in seconds.
SPARK_EVERY_S = 10.0
NONE_YET = (
    "Add an automation first, then its keys here: one by one, or many from a CSV file. "
    "The same by command: keyway keys add AUTOMATION Primary"
)
#: Which order a column asks for.
ORDER_OF = {"alias": "key", "status": "status", "latency": "latency", None: "automation"}


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _Keys(visit)
    page.lay_out()
    await page.live.start()


class _Keys:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._text = visit.asked("text") or ""
        status = visit.asked("status") or ""
        self._status = status if status in STATUSES else ""
        self._sparks: dict[str, list[int]] = {}
        self._sparked: tuple[frozenset[str], float] = (frozenset(), float("-inf"))

    def lay_out(self) -> None:
        with ui.element("div").classes("kw-bar-top"):
            heading("Keys", "What each may do, what of it is used, and how it does.")
            if self._visit.is_admin:
                plain("Import CSV", self._import, icon="upload_file")
                primary("Add key", self._add, icon="add")
        self.live = Live(self._visit, self._refresh)
        with ui.element("div").classes("kw-filters"):
            search = ui.input(
                placeholder="Automation, name or last four",
                value=self._text,
                on_change=lambda event: self._filter(text=event.value or ""),
            )
            search.props('outlined dense debounce=250 clearable aria-label="Search keys"').classes(
                "kw-search"
            )
            chosen = ui.select(
                STATUSES, value=self._status, on_change=lambda event: self._filter(status=event.value)
            )
            chosen.props('outlined dense aria-label="Status"').classes("kw-select")
        with panel("", tight=True):
            self._none = Empty("key_off")
            columns = [*COLUMNS, Column("actions", "", "actions")] if self._visit.is_admin else COLUMNS
            self._grid = Grid(columns, label="Keys", on_ask=self.live.now, on_act=self.live.acting(self._act))
        with panel(
            "Direct keys that are out", "automations call the provider with them themselves", tight=True
        ) as self._lent:
            self._leases = Grid(LEASES, label="Direct keys", paged=False)

    async def _refresh(self) -> None:
        asked = self._grid.asked
        wanted = KeyFilter(status=self._status or None, text=self._text or None)
        rows, total = await self._visit.services.key_table.read(
            wanted,
            order=ORDER_OF[asked.sort_by],
            descending=asked.descending,
            skip=asked.skip,
            most=asked.size,
        )
        sparks = await self._last_calls([row.view for row in rows])
        self._grid.show(
            [row_of(row, sparks.get(row.view.key.id, []), with_actions=self._visit.is_admin) for row in rows],
            total,
        )
        self._grid.set_visibility(total > 0)
        self._none.set_visibility(total == 0)
        if total == 0:
            self._say_why_none()
        leases = await self._visit.services.leases.read(LeaseFilter(live=True), most=MOST_LEASES)
        self._leases.show([lease_row(lease) for lease in leases])
        self._lent.set_visibility(bool(leases))

    async def _last_calls(self, views: list[KeyView]) -> dict[str, list[int]]:
        """How long the last calls of keys took: of the same keys read every `SPARK_EVERY_S` only."""
        ids = frozenset(view.key.id for view in views)
        if self._sparked[0] != ids or time.monotonic() - self._sparked[1] > SPARK_EVERY_S:
            self._sparks = await self._visit.services.key_table.sparklines(views)
            self._sparked = (ids, time.monotonic())
        return self._sparks

    def _say_why_none(self) -> None:
        if self._text or self._status:
            self._none.say("No key matches", "Search for less, or choose another status.")
        else:
            self._none.say("There are no keys yet", NONE_YET)

    async def _filter(self, *, text: str | None = None, status: str | None = None) -> None:
        self._text = self._text if text is None else text
        self._status = self._status if status is None else status
        self._grid.first_page()
        await self.live.now()

    async def _add(self) -> None:
        await add_key(self._visit, self.live.now)

    def _import(self) -> None:
        import_keys(self._visit, self.live.now)

    async def _act(self, name: str, key_id: str) -> None:
        view = await key_of_id(self._visit.services.mongo, key_id)
        if view is None:
            say("That key is gone.", good=False)
        elif name == "open":
            await open_key(self._visit, view, self.live.now)
        else:
            await act(self._visit, view, name)
            await self.live.now()


async def act(visit: Visit, view: KeyView, name: str) -> None:
    """Disable, enable or check a key."""
    services, label = visit.services, f"{view.key.automation_id}/{view.key.alias}"
    match name:
        case "disable":
            await visit.change(
                lambda actor: services.key_changes(actor).set_status(view, "disabled", "by hand"),
                f"{label} is disabled.",
            )
        case "enable":
            await visit.change(
                lambda actor: services.key_changes(actor).set_status(view, "active", "by hand"),
                f"{label} is enabled.",
            )
        case "check":
            result = await visit.change(lambda actor: services.key_changes(actor).check(view))
            if result is not None:
                say(sentence(f"{label}: {result.reason}"), good=result.ok)
        case _:
            raise NotFoundError(f"no action {name}")


def row_of(row: KeyRow, calls: list[int], *, with_actions: bool) -> Row:
    """A key as the table shows it, with how long its last calls took in milliseconds."""
    view, key = row.view, row.view.key
    requests, tokens = used_in_window(key, view.now)
    limits = key.limits
    tier = "" if key.tier == 0 else f" · {TIERS[key.tier].value}"
    shown: Row = {
        "key": key.id,
        "alias": key.alias,
        "owner": f"{key.automation_id} · …{JOINED}{view.document['last_four']}{tier}",
        **_status(view),
        "use": [
            bar("req/min", requests, limits.requests_per_minute, _of(requests, limits.requests_per_minute)),
            bar("tok/min", tokens, limits.tokens_per_minute, _of(tokens, limits.tokens_per_minute)),
            bar("today", used_today(key, view.now), limits.tokens_per_day,
                _of(used_today(key, view.now), limits.tokens_per_day)),
        ],
        "latency": duration(key.latency_ms) if key.latency_ms else "—",
        "errors": f"{percent(key.error_rate)} errors" if key.error_rate >= 0.0005 else "",
        "spark": spark(calls, _range(calls)),
        "cost": money(row.cost_today_nanousd),
        "calls": f"{count(row.calls_today)} calls",
    }  # fmt: skip
    if with_actions:
        switch = (
            ("enable", "Enable", "play_arrow")
            if key.status in {"disabled", "error"}
            else ("disable", "Disable", "pause")
        )
        shown["actions"] = [action(*switch), action("check", "Check", "network_check")]
    return shown


def _status(view: KeyView) -> Row:
    key = view.key
    if key.status == "active" and key.cooled_until > view.now:
        reason = str(key.cool_reason or "failures in a row").replace("_", " ")
        until = datetime.fromtimestamp(key.cooled_until, UTC)
        return {"status": chip("cooling", "warn"), "reason": reason, "reason_until": iso(until)}
    return {
        "status": chip(key.status, KEY_TONES.get(key.status, "idle")),
        "reason": "" if key.status == "active" else key.status_reason,
        "reason_until": iso(view.document.get("status_until")) if key.status != "active" else None,
    }


def _range(calls: list[int]) -> str:
    if not calls:
        return ""
    least, most, last = (duration(took) for took in (min(calls), max(calls), calls[-1]))
    return f"{len(calls)} calls: {least} to {most}, the last {last}"


def _of(used: int, limit: int | None) -> str:
    return compact(used) if limit is None else f"{compact(used)} / {compact(limit)}"

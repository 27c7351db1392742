"""One key from near: what it may do, how fast it answered lately, and how its status changed."""

from collections.abc import Awaitable, Callable
from datetime import datetime

from nicegui import ui

from infra.mongo import Document
from workers.console.leases import LeaseFilter
from workers.console.pages.charts import line
from workers.console.pages.dialogs import confirm, drawer, foot, plain
from workers.console.pages.figures import count, duration, iso, percent
from workers.console.pages.key_forms import LIMITS, change_limits
from workers.console.pages.layout import facts, local_time
from workers.console.pages.lease_list import MOST_LEASES, show_leases
from workers.console.pages.tones import KEY_TONES
from workers.console.pages.visit import Visit
from workers.keys.facts import TIERS, KeyView, key_of_id, warnings


async def open_key(visit: Visit, view: KeyView, changed: Callable[[], Awaitable[None]]) -> None:
    """Show a key in a panel on the right."""
    key = view.key
    latencies = await visit.services.key_table.latencies(view)
    leases = await visit.services.leases.read(LeaseFilter(key_id=key.id, live=True), most=MOST_LEASES)
    with drawer(f"{key.automation_id} / {key.alias}") as opened:
        _facts(view)
        _latency(latencies)
        if leases:
            show_leases(leases, lambda lease: lease.automation_id)
        _history(view.document.get("history", []))
        if visit.is_admin:
            ui.element("div").classes("kw-grow")

            async def again() -> None:
                opened.close()
                await changed()
                fresh = await key_of_id(visit.services.mongo, key.id)
                if fresh is not None:
                    await open_key(visit, fresh, changed)

            async def remove() -> None:
                done = await visit.change(
                    lambda actor: _removed(visit, actor, view), f"Removed {key.automation_id}/{key.alias}."
                )
                if done:
                    opened.close()
                    await changed()

            with foot():
                plain(
                    "Remove",
                    lambda: confirm(
                        f"Remove {key.alias}?",
                        "Workers stop to use it at once. Its usage stays in the books.",
                        "Remove key",
                        remove,
                    ),
                    icon="delete",
                ).classes("kw-takes")
                plain("Change limits", lambda: change_limits(visit, view, again), icon="tune")


async def _removed(visit: Visit, actor: str, view: KeyView) -> bool:
    await visit.services.key_changes(actor).remove(view)
    return True


def _facts(view: KeyView) -> None:
    key, document = view.key, view.document
    with facts():
        ui.label("Status")
        with ui.element("div"):
            ui.label(key.status).classes(f"kw-chip kw-{KEY_TONES.get(key.status, 'idle')}")
            ui.label(key.status_reason).classes("kw-note")
        ui.label("Since")
        local_time(iso(document["status_since"]) or "")
        if until := iso(document.get("status_until")):
            ui.label("Until")
            local_time(until)
        if probe_at := iso(document.get("probe", {}).get("at")):
            ui.label("Tried again")
            local_time(probe_at)
        for name, label in LIMITS.items():
            value = getattr(key.limits, name)
            ui.label(label)
            ui.label("no limit" if value is None else count(value))
        if lower := warnings(key, view.now):
            ui.label("The provider allows less")
            ui.label("; ".join(lower))
        ui.label("In flight")
        ui.label(count(key.held_calls))
        ui.label("Latency, smoothed")
        ui.label(duration(key.latency_ms) if key.latency_ms else "no call yet")
        ui.label("Errors, smoothed")
        ui.label(percent(key.error_rate))
        ui.label("Comes into use")
        ui.label(TIERS[key.tier].value)
        ui.label("API key")
        ui.label(f"ends in {document['last_four']}").classes("kw-mono")
        ui.label("Provider")
        ui.label(key.base_url).classes("kw-mono")


def _latency(latencies: list[tuple[datetime, int]]) -> None:
    ui.label("Latency of the last hour's calls").classes("text-weight-medium")
    if not latencies:
        ui.label("No call succeeded within the last hour.").classes("kw-muted")
        return
    labels = [at.strftime("%H:%M:%S UTC") for at, _ in latencies]
    ui.echart(line(labels, "ms", [took for _, took in latencies])).classes("kw-chart").style("height: 140px")


def _history(history: list[Document]) -> None:
    ui.label("History").classes("text-weight-medium")
    if not history:
        ui.label("Its status has never changed.").classes("kw-muted")
        return
    with ui.element("div").classes("kw-history"):
        for entry in reversed(history):
            with ui.element("div").classes("kw-history-entry"):
                local_time(iso(entry["at"]) or "").classes("kw-muted")
                with ui.element("div"):
                    ui.label(entry["to"]).classes(f"kw-chip kw-{KEY_TONES.get(entry['to'], 'idle')}")
                    ui.label(f"{entry['reason']} · by {entry['actor']}").classes("kw-note")

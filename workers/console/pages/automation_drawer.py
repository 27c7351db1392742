"""One automation from near: its settings, the processes that are alive, and its service token."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from workers.console.automations import AutomationView
from workers.console.leases import LeaseFilter
from workers.console.pages.automation_forms import change_settings
from workers.console.pages.budget_list import BudgetList
from workers.console.pages.dialogs import confirm, drawer, foot, plain, show_secret
from workers.console.pages.figures import count, iso
from workers.console.pages.layout import facts, local_time
from workers.console.pages.lease_list import MOST_LEASES, show_leases
from workers.console.pages.shared import Served
from workers.console.pages.visit import Visit


async def open_automation(visit: Visit, served: Served, changed: Callable[[], Awaitable[None]]) -> None:
    """Show an automation in a panel on the right."""
    view = served.automation
    leases = await visit.services.leases.read(LeaseFilter(view.automation_id, live=True), most=MOST_LEASES)
    with drawer(view.automation_id) as opened:
        _facts(served)
        await BudgetList(visit, view.automation_id).show()
        if view.allow_leases or leases:
            show_leases(leases, lambda lease: lease.key_alias)
        ui.label("Processes that are alive").classes("text-weight-medium")
        _processes(view)
        with ui.row():
            ui.link("Its keys", f"/keys?text={view.automation_id}")
            ui.link("Its requests", f"/requests?automation={view.automation_id}")
        if visit.is_admin:
            ui.element("div").classes("kw-grow")

            async def again() -> None:
                opened.close()
                await changed()

            with foot():
                if view.rotation is None:
                    plain("Rotate token", lambda: _ask_to_rotate(visit, view, again), icon="autorenew")
                else:
                    plain("Finish rotation", lambda: _ask_to_finish(visit, view, again), icon="done_all")
                plain("Settings", lambda: change_settings(visit, view, again), icon="tune")


def _facts(served: Served) -> None:
    view, lane = served.automation, served.lane
    with facts():
        ui.label("Waiting")
        ui.label(count(lane.state.waiting))
        ui.label("In flight")
        ui.label(count(lane.state.in_hand))
        ui.label("Deadline")
        ui.label(f"{view.deadline_s} s, for requests that name none")
        ui.label("One call")
        ui.label(f"at most {view.call_timeout_s} s")
        ui.label("Calls at a time")
        ui.label("no cap" if view.max_in_flight is None else count(view.max_in_flight))
        ui.label("Direct keys")
        ui.label("allowed" if view.allow_leases else "not allowed")
        ui.label("Added")
        local_time(iso(view.created_at) or "")
        if view.rotation is not None:
            ui.label("Its token rotates")
            with ui.row(align_items="center"):
                local_time(iso(view.rotation.since) or "")
                ui.label(f"by {view.rotation.actor}")


def _processes(view: AutomationView) -> None:
    if not view.processes:
        hint = "None. A program that uses Keyway's client is seen here as soon as it runs."
        ui.label(hint).classes("kw-muted")
        return
    with ui.element("div").classes("kw-history"):
        for process in view.processes:
            with ui.element("div").classes("kw-history-entry"):
                local_time(iso(process.last_heartbeat_at) or "").classes("kw-muted")
                with ui.element("div"):
                    ui.label(process.host).classes("kw-mono")
                    ui.label(f"version {process.version} · {count(process.in_flight)} in flight").classes(
                        "kw-note"
                    )


def _ask_to_rotate(visit: Visit, view: AutomationView, changed: Callable[[], Awaitable[None]]) -> None:
    async def rotate() -> None:
        changes = visit.services.automation_changes
        rotation = await visit.change(lambda actor: changes(actor).begin_rotation(view.automation_id))
        if rotation is None:
            return
        await changed()
        show_secret(
            f"The new service token of {view.automation_id}",
            "Keyway's Python client takes it in place of the old one. Other programs use it as user "
            f"{rotation.user} until you finish the rotation here. It is not shown again.",
            rotation.token,
        )

    confirm(
        f"Give {view.automation_id} a new token?",
        "The old token works too until you finish the rotation.",
        "Rotate token",
        rotate,
        harmful=False,
    )


def _ask_to_finish(visit: Visit, view: AutomationView, changed: Callable[[], Awaitable[None]]) -> None:
    async def finish() -> None:
        await visit.change(
            lambda actor: visit.services.automation_changes(actor).finish_rotation(view.automation_id),
            f"The old token of {view.automation_id} is refused from now on.",
        )
        await changed()

    confirm(
        f"Finish the rotation of {view.automation_id}?",
        "The old token is refused from now on, and its connections are closed.",
        "Refuse the old token",
        finish,
    )

"""The pages: which there are, and how they are put onto the console's application."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from nicegui import ui

from workers.console.access.operators import Role
from workers.console.api.callers import cookie_name
from workers.console.pages import (
    alerts,
    audit_log,
    automations,
    dead_letters,
    keys,
    operators,
    overview,
    queues,
    requests,
    sign_in,
    usage,
)
from workers.console.pages.door import ASSETS, PREFIX, SIGN_IN, Door
from workers.console.pages.layout import Entry, frame
from workers.console.pages.shared import SharedReads
from workers.console.pages.visit import Visit
from workers.console.services import Services

#: How long the browser of a page may be away before the page ends, in seconds: a busy one answers late.
RECONNECT_S = 15.0
#: How long building a page may take, in seconds.
BUILD_S = 20.0


@dataclass(frozen=True, slots=True)
class Page:
    """A page: where it stands in the navigation, what makes its content, and who may see it."""

    entry: Entry
    build: Callable[[Visit], Awaitable[None]]
    role: Role = Role.VIEWER


PAGES = (
    Page(Entry("/", "Overview", "space_dashboard"), overview.build),
    Page(Entry("/keys", "Keys", "key"), keys.build),
    Page(Entry("/automations", "Automations", "smart_toy"), automations.build),
    Page(Entry("/requests", "Requests", "receipt_long"), requests.build),
    Page(Entry("/queues", "Queues", "layers"), queues.build),
    Page(Entry("/dead-letters", "Dead letters", "unsubscribe"), dead_letters.build),
    Page(Entry("/alerts", "Alerts", "notifications"), alerts.build),
    Page(Entry("/usage", "Usage", "bar_chart"), usage.build),
    Page(Entry("/operators", "Operators", "group"), operators.build, Role.ADMIN),
    Page(Entry("/audit", "Audit log", "history"), audit_log.build, Role.ADMIN),
)


def mount_pages(app: FastAPI, services: Services) -> None:
    """Put the pages onto the application of the HTTP API, below `/console`."""
    app.include_router(sign_in.router)
    app.mount(ASSETS, StaticFiles(directory=Path(__file__).parent / "assets"))
    shared = SharedReads(services)
    for page in PAGES:
        _register(page, services, shared)
    ui.run_with(
        app,
        mount_path=PREFIX,
        title="Keyway",
        language="en-US",
        favicon=Path(__file__).parent / "assets" / "keyway.svg",
        dark=None,
        tailwind=False,
        reconnect_timeout=RECONNECT_S,
        show_welcome_message=False,
    )
    app.add_middleware(Door, services=services)


def _register(page: Page, services: Services, shared: SharedReads) -> None:
    async def show(request: Request) -> Response | None:
        session = request.cookies.get(cookie_name(services.settings), "")
        caller = await services.sessions.caller(session)
        if caller is None:
            return RedirectResponse(SIGN_IN, 303)
        if not caller.role.allows(page.role):
            return RedirectResponse(f"{PREFIX}/", 303)
        visit = Visit(services, shared, request, session, caller)
        entries = [other.entry for other in PAGES if caller.role.allows(other.role)]
        with frame(visit, page.entry, entries):
            await page.build(visit)
        return None

    title = f"{page.entry.title} · Keyway"
    ui.page(page.entry.path, title=title, response_timeout=BUILD_S)(show)

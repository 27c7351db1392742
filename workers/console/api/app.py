"""The HTTP API: every router, and what all of them have in common."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI, Request, Response

from workers.console.api import (
    alerts,
    automation_calls,
    automations,
    budgets,
    dead_letters,
    health,
    keys,
    lanes,
    leases,
    operators,
    overview,
    reference,
    requests,
    session,
    usage,
)
from workers.console.api.body_limit import BodyLimit
from workers.console.api.errors import add_handlers
from workers.console.services import Services

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    session.router,
    operators.router,
    overview.router,
    automations.router,
    keys.router,
    leases.router,
    budgets.router,
    usage.router,
    requests.router,
    lanes.router,
    dead_letters.router,
    alerts.router,
    automation_calls.router,
    reference.router,
)
#: What browsers are told of every answer (OWASP, "HTTP Security Response Headers").
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}
OPENAPI = "/api/openapi.json"
#: Answers of the API run nothing, whatever is made of them.
NOTHING_ACTIVE = "default-src 'none'; frame-ancestors 'none'"


def create_app(services: Services) -> FastAPI:
    """The API over open services."""
    app = FastAPI(
        title="Keyway",
        version="1",
        description="Automations, their keys, queues and books. Sign in, or send a token as `Bearer`.",
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI,
    )
    app.state.services = services
    for router in ROUTERS:
        app.include_router(router)
    add_handlers(app)
    app.middleware("http")(_with_headers)
    app.add_middleware(BodyLimit)
    return app


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.url.path.startswith("/api/"):
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("Content-Security-Policy", NOTHING_ACTIVE)
    return response

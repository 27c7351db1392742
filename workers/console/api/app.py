"""The HTTP API: every router, and what all of them have in common."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI, Request, Response

from workers.console.api import (
    alerts,
    automation_calls,
    automations,
    dead_letters,
    health,
    keys,
    lanes,
    operators,
    overview,
    requests,
    session,
    usage,
)
from workers.console.api.errors import add_handlers
from workers.console.services import Services

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    session.router,
    operators.router,
    overview.router,
    automations.router,
    keys.router,
    usage.router,
    requests.router,
    lanes.router,
    dead_letters.router,
    alerts.router,
    automation_calls.router,
)
#: What browsers are told of every answer (OWASP, "HTTP Security Response Headers").
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}


def create_app(services: Services) -> FastAPI:
    """The API over open services."""
    app = FastAPI(
        title="Keyway",
        version="1",
        description="Automations, their keys, queues and books. Sign in, or send a token as `Bearer`.",
        docs_url="/api/docs",
        redoc_url=None,
        openapi_url="/api/openapi.json",
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.services = services
    for router in ROUTERS:
        app.include_router(router)
    add_handlers(app)
    app.middleware("http")(_with_headers)
    return app


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.url.path.startswith("/api/"):
        response.headers.setdefault("Cache-Control", "no-store")
    return response

"""Signing in and out, and choosing a password: plain forms, which need no script.

They set the same cookie as the HTTP API does. The door has checked that they come from the console's site.
"""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import nicegui
from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates
from pydantic import SecretStr

from infra.errors import PlatformError
from infra.mongo import PyMongoError
from workers.console.access.failures import TooManyFailuresError
from workers.console.access.passwords import SHORTEST
from workers.console.api.callers import (
    ServicesOf,
    caller_of,
    clear_session,
    cookie_name,
    set_session,
)
from workers.console.pages.door import PASSWORD, PREFIX, SIGN_IN, SIGN_OUT
from workers.console.pages.theme import theme_of

router = APIRouter(include_in_schema=False)
#: The fonts of the pages.
FONTS = f"{PREFIX}/_nicegui/{nicegui.__version__}/static/fonts.css"
#: The longest username and password that are looked at.
LONGEST_USERNAME, LONGEST_PASSWORD = 128, 256
#: Sign-in and password forms run no script at all.
POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_templates = Jinja2Templates(Path(__file__).parent / "templates")

Username = Annotated[str, Form(max_length=LONGEST_USERNAME)]
Password = Annotated[SecretStr, Form(max_length=LONGEST_PASSWORD)]


@router.get(SIGN_IN)
async def sign_in_form(request: Request, services: ServicesOf) -> Response:
    """The form to sign in with; who is signed in already goes on."""
    if await caller_of(request, services) is not None:
        return RedirectResponse(_next(request), 303)
    return _form(request, "sign_in.html")


@router.post(SIGN_IN)
async def sign_in(request: Request, services: ServicesOf, username: Username, password: Password) -> Response:
    """Sign in; the answer sets the session's cookie, always a new one."""
    address = request.client.host if request.client else "unknown"
    try:
        name = await services.sign_in.sign_in(username, password, address)
        caller = await services.sessions.caller(name.get_secret_value())
        await _end_session(request, services)
    except TooManyFailuresError as error:
        return _form(request, "sign_in.html", str(error), 429, username)
    except PlatformError as error:
        return _form(request, "sign_in.html", str(error), 401, username)
    except PyMongoError:
        return _form(request, "sign_in.html", "the database can't be reached; try again in a moment", 503)
    if caller is not None:
        start = {"address": address}
        await services.audit.write(caller.actor, "session.started", caller.username, after=start)
    answer = RedirectResponse(_next(request), 303)
    set_session(answer, services.settings, name.get_secret_value())
    return answer


@router.get(PASSWORD)
async def password_form(request: Request) -> Response:
    """The form to choose a password with."""
    return _form(request, "password.html")


@router.post(PASSWORD)
async def change_password(
    request: Request,
    services: ServicesOf,
    current: Password,
    new: Password,
    again: Password,
) -> Response:
    """Choose another password; all sessions of the operator end, and this one starts anew."""
    caller = await caller_of(request, services)
    if caller is None:
        return RedirectResponse(SIGN_IN, 303)
    if new != again:
        return _form(request, "password.html", "the new passwords differ", 422)
    address = request.client.host if request.client else "unknown"
    try:
        await services.sign_in.confirm(caller.username, current, address)
        await services.operators.set_password(caller.username, new)
    except PlatformError as error:
        return _form(request, "password.html", str(error), 422)
    name = await services.sessions.start(caller.username)
    await services.audit.write(caller.actor, "operator.password_changed", caller.username)
    answer = RedirectResponse(f"{PREFIX}/", 303)
    set_session(answer, services.settings, name.get_secret_value())
    return answer


@router.post(SIGN_OUT)
async def sign_out(request: Request, services: ServicesOf) -> Response:
    """Sign out."""
    caller = await caller_of(request, services)
    await _end_session(request, services)
    if caller is not None:
        await services.audit.write(caller.actor, "session.ended", caller.username)
    answer = RedirectResponse(SIGN_IN, 303)
    clear_session(answer, services.settings)
    return answer


@router.get("/")
async def home() -> Response:
    """The console is the first thing that people want."""
    return RedirectResponse(f"{PREFIX}/", 307)


async def _end_session(request: Request, services: ServicesOf) -> None:
    if name := request.cookies.get(cookie_name(services.settings)):
        await services.sessions.end(name)


def _form(
    request: Request, template: str, error: str | None = None, status: int = 200, username: str = ""
) -> Response:
    context = {
        "error": error,
        "username": username,
        "shortest": SHORTEST,
        "theme": theme_of(request.cookies),
        "fonts": FONTS,
    }
    return _templates.TemplateResponse(request, template, context, status, headers=POLICY)


def _next(request: Request) -> str:
    """Where somebody wanted to go: a page of the console, and nowhere else."""
    wanted = request.query_params.get("next", "")
    parts = urlsplit(wanted)
    is_page = not parts.scheme and not parts.netloc and wanted.startswith(f"{PREFIX}/")
    return wanted if is_page and "\\" not in wanted and wanted != SIGN_IN else f"{PREFIX}/"

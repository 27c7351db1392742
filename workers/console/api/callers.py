"""Who calls the HTTP API, and whether they may: a session with its CSRF token, or a script's token."""

from typing import Annotated

from fastapi import Depends, HTTPException, Request, Response

from infra.settings import Settings
from workers.console.access.operators import Role
from workers.console.access.sessions import LONGEST, Caller, is_same_token
from workers.console.services import Services

#: The session's cookie; a browser takes one with this prefix only over HTTPS, for the whole host.
SECURE_COOKIE, PLAIN_COOKIE = "__Host-keyway", "keyway"
CSRF_HEADER = "X-CSRF-Token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def services(request: Request) -> Services:
    """The console's services, which its start has put there."""
    found: Services = request.app.state.services
    return found


ServicesOf = Annotated[Services, Depends(services)]


def cookie_name(settings: Settings) -> str:
    """What the session's cookie is called."""
    return SECURE_COOKIE if settings.console_secure_cookies else PLAIN_COOKIE


def set_session(response: Response, settings: Settings, name: str) -> None:
    """Give the browser its session."""
    response.set_cookie(
        cookie_name(settings),
        name,
        max_age=int(LONGEST.total_seconds()),
        path="/",
        secure=settings.console_secure_cookies,
        httponly=True,
        samesite="strict",
    )


def clear_session(response: Response, settings: Settings) -> None:
    """Take the browser's session away."""
    response.delete_cookie(cookie_name(settings), path="/", secure=settings.console_secure_cookies)


async def caller_of(request: Request, services: Services) -> Caller | None:
    """Who makes a request; None where nobody is signed in."""
    authorization = request.headers.get("authorization", "")
    if authorization:
        scheme, _, token = authorization.partition(" ")
        return await services.api_tokens.caller(token.strip()) if scheme.lower() == "bearer" else None
    name = request.cookies.get(cookie_name(services.settings))
    return await services.sessions.caller(name) if name else None


async def signed_in(request: Request, services: ServicesOf) -> Caller:
    """Whoever is signed in, even if only to change their one-time password."""
    caller = await caller_of(request, services)
    if caller is None:
        raise HTTPException(401, "sign in first", {"WWW-Authenticate": "Bearer"})
    if caller.csrf_token is not None and request.method not in SAFE_METHODS:
        _refuse_other_sites(request)
        if not is_same_token(caller.csrf_token, request.headers.get(CSRF_HEADER)):
            raise HTTPException(403, f"expected the session's {CSRF_HEADER}")
    return caller


def _refuse_other_sites(request: Request) -> None:
    """Refuse what another site's page sends; browsers say where a request comes from."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        raise HTTPException(403, "the request comes from another site")


async def viewer(caller: Annotated[Caller, Depends(signed_in)]) -> Caller:
    """Somebody who may look."""
    if caller.must_change_password:
        raise HTTPException(403, "choose a password of your own first")
    return caller


async def admin(caller: Annotated[Caller, Depends(viewer)]) -> Caller:
    """Somebody who may change things."""
    if not caller.role.allows(Role.ADMIN):
        raise HTTPException(403, "this needs an admin")
    return caller


SignedIn = Annotated[Caller, Depends(signed_in)]
Viewer = Annotated[Caller, Depends(viewer)]
Admin = Annotated[Caller, Depends(admin)]

"""Signing in and out, one's own password, and who one is."""

from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Field, SecretStr

from workers.console.access.operators import Role
from workers.console.access.sessions import Caller
from workers.console.access.sign_in import SignInRefusedError
from workers.console.api.callers import (
    ServicesOf,
    SignedIn,
    clear_session,
    cookie_name,
    set_session,
)
from workers.console.api.errors import ANSWERS, ErrorBody

router = APIRouter(prefix="/api/session", tags=["session"], responses=ANSWERS)

TOO_MANY: dict[int | str, dict[str, object]] = {
    429: {"model": ErrorBody, "description": "Too many failed attempts; Retry-After says for how long"}
}


class Credentials(BaseModel):
    """What one signs in with."""

    username: str = Field(max_length=128)
    password: SecretStr = Field(max_length=256)


class Session(BaseModel):
    """Who is signed in."""

    username: str
    role: Role
    must_change_password: bool
    csrf_token: str | None = Field(description="To be sent as X-CSRF-Token with what changes something.")


class PasswordChange(BaseModel):
    """The password that one has, and the one that one wants."""

    current: SecretStr = Field(max_length=256)
    new: SecretStr = Field(max_length=256)


@router.post("", responses=TOO_MANY)
async def sign_in(
    request: Request, response: Response, services: ServicesOf, credentials: Annotated[Credentials, Body()]
) -> Session:
    """Sign in; the answer sets the session's cookie, always a new one."""
    address = request.client.host if request.client else "unknown"
    name = await services.sign_in.sign_in(credentials.username, credentials.password, address)
    await _end_old(request, services)
    set_session(response, services.settings, name.get_secret_value())
    caller = await _started(services, name)
    await services.audit.write(caller.actor, "session.started", caller.username, after={"address": address})
    return _session(caller)


@router.get("")
async def who_am_i(caller: SignedIn) -> Session:
    """Who is signed in."""
    return _session(caller)


@router.delete("", status_code=204)
async def sign_out(request: Request, response: Response, services: ServicesOf, caller: SignedIn) -> None:
    """Sign out."""
    await _end_old(request, services)
    clear_session(response, services.settings)
    await services.audit.write(caller.actor, "session.ended", caller.username)


@router.put("/password", responses=TOO_MANY)
async def change_password(
    request: Request,
    response: Response,
    services: ServicesOf,
    caller: SignedIn,
    change: Annotated[PasswordChange, Body()],
) -> Session:
    """Choose another password; all sessions of the operator end, and this one starts anew."""
    address = request.client.host if request.client else "unknown"
    await services.sign_in.confirm(caller.username, change.current, address)
    await services.operators.set_password(caller.username, change.new)
    name = await services.sessions.start(caller.username)
    set_session(response, services.settings, name.get_secret_value())
    await services.audit.write(caller.actor, "operator.password_changed", caller.username)
    return _session(await _started(services, name))


async def _end_old(request: Request, services: ServicesOf) -> None:
    if old := request.cookies.get(cookie_name(services.settings)):
        await services.sessions.end(old)


async def _started(services: ServicesOf, name: SecretStr) -> Caller:
    """Who has a session that was started just now.

    Raises:
        SignInRefusedError: they were switched off meanwhile.
    """
    caller = await services.sessions.caller(name.get_secret_value())
    if caller is None:
        raise SignInRefusedError("the operator may not sign in any more")
    return caller


def _session(caller: Caller) -> Session:
    return Session(
        username=caller.username,
        role=caller.role,
        must_change_password=caller.must_change_password,
        csrf_token=caller.csrf_token,
    )

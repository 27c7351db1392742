"""Operators, tokens of their scripts, and the audit log: for admins."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from pydantic import BaseModel, Field

from workers.console.access.operators import Operator, Role
from workers.console.api.callers import Admin, ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import Moment

router = APIRouter(prefix="/api", tags=["operators"], responses=ANSWERS)

Username = Annotated[str, Path(max_length=63)]
#: Entries of the audit log in one answer.
MOST_ENTRIES = 1000


class OperatorOut(BaseModel):
    """An operator."""

    username: str
    role: Role
    enabled: bool
    must_change_password: bool
    created_at: datetime


class NewOperator(BaseModel):
    """An operator to add."""

    username: str = Field(max_length=63)
    role: Role = Role.VIEWER


class OneTimePassword(BaseModel):
    """A password to sign in with once; it is shown this once."""

    username: str
    one_time_password: str


class OperatorChange(BaseModel):
    """What is to change; what is not named stays."""

    role: Role | None = None
    enabled: bool | None = None


class NewToken(BaseModel):
    """A token to make for one's own scripts."""

    label: str = Field(min_length=1, max_length=100)
    role: Role = Role.VIEWER
    days: int | None = Field(default=90, ge=1, le=3650, description="How long it is valid; null: for ever.")


class TokenOut(BaseModel):
    """A token, without its secret."""

    id: str
    username: str
    label: str
    role: Role
    created_at: datetime
    expires_at: datetime | None


class MadeToken(BaseModel):
    """A token that was made; its secret is shown this once."""

    id: str
    token: str


class AuditEntry(BaseModel):
    """One change."""

    at: datetime
    actor: str
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@router.get("/operators")
async def list_operators(services: ServicesOf, _: Admin) -> list[OperatorOut]:
    """All operators."""
    return [_out(operator) for operator in await services.operators.list()]


@router.post("/operators", status_code=201)
async def add_operator(
    services: ServicesOf, caller: Admin, new: Annotated[NewOperator, Body()]
) -> OneTimePassword:
    """Add an operator, who gets a one-time password."""
    password = await services.operator_changes(caller.actor).add(new.username, new.role)
    return OneTimePassword(username=new.username, one_time_password=password.get_secret_value())


@router.patch("/operators/{username}")
async def change_operator(
    services: ServicesOf, caller: Admin, username: Username, change: Annotated[OperatorChange, Body()]
) -> OperatorOut:
    """Change what an operator may do, or switch them on or off."""
    changes = services.operator_changes(caller.actor)
    return _out(await changes.change(username, role=change.role, enabled=change.enabled))


@router.post("/operators/{username}/one-time-password")
async def reset_password(services: ServicesOf, caller: Admin, username: Username) -> OneTimePassword:
    """Give an operator a new one-time password; their sessions end."""
    password = await services.operator_changes(caller.actor).reset_password(username)
    return OneTimePassword(username=username, one_time_password=password.get_secret_value())


@router.get("/tokens")
async def list_tokens(services: ServicesOf, _: Admin) -> list[TokenOut]:
    """Tokens of all operators' scripts."""
    return [TokenOut(id=token["_id"], **token) for token in await services.api_tokens.list()]


@router.post("/tokens", status_code=201)
async def add_token(services: ServicesOf, caller: Admin, new: Annotated[NewToken, Body()]) -> MadeToken:
    """Make a token for one's own scripts, with one's own rights or fewer."""
    changes = services.operator_changes(caller.actor)
    token_id, token = await changes.add_token(caller.username, new.label, new.role, days=new.days)
    return MadeToken(id=token_id, token=token.get_secret_value())


@router.delete("/tokens/{token_id}", status_code=204)
async def remove_token(services: ServicesOf, caller: Admin, token_id: str) -> None:
    """Take a token back."""
    await services.operator_changes(caller.actor).remove_token(token_id)


@router.get("/audit")
async def read_audit(
    services: ServicesOf,
    _: Viewer,
    target: Annotated[str | None, Query(max_length=200)] = None,
    actor: Annotated[str | None, Query(max_length=200)] = None,
    before: Moment | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = 100,
) -> list[AuditEntry]:
    """The audit log, the latest first."""
    entries = await services.audit.read(target=target, actor=actor, before=before, most=limit)
    return [AuditEntry(**entry) for entry in entries]


def _out(operator: Operator) -> OperatorOut:
    return OperatorOut(
        username=operator.username,
        role=operator.role,
        enabled=operator.enabled,
        must_change_password=operator.must_change_password,
        created_at=operator.created_at,
    )

"""What automations call themselves, with their service token, where they speak no AMQP: direct keys."""

import base64
import binascii
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Depends, HTTPException, Request
from pydantic import BaseModel, Field, SecretStr

from contracts import names
from contracts.messages import KeyLeaseRequest, UsageReported
from workers.console.api.callers import Admin, ServicesOf
from workers.console.api.errors import ANSWERS, ErrorBody
from workers.console.api.keys import KeyDetail, NewKeyBody, detail
from workers.console.api.parameters import AutomationId

router = APIRouter(prefix="/api", tags=["automations' own calls"], responses=ANSWERS)

LATER: dict[int | str, dict[str, object]] = {
    429: {"model": ErrorBody, "description": "No room, or too many failed attempts; see Retry-After"}
}
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="keyway", Basic realm="keyway"'}


class Lease(BaseModel):
    """A key, lent until `expires_at`; `sealed_api_key` where the request names a recipient's key."""

    lease_id: str
    key_alias: str
    api_key: str | None
    sealed_api_key: str | None
    base_url: str
    expires_at: datetime
    requests: int = Field(ge=0)
    tokens: int = Field(ge=0)


class Accepted(BaseModel):
    """The report will be booked, once."""

    report_id: str


async def automation(request: Request, services: ServicesOf, automation_id: AutomationId) -> str:
    """The automation that calls, by its service token: as Bearer, or as the password of Basic."""
    user, token = _credentials(request.headers.get("authorization", ""))
    if token is None:
        raise HTTPException(401, "expected the service token, as Bearer or Basic", CHALLENGE)
    if user not in {None, automation_id, names.next_user(automation_id)}:
        raise HTTPException(403, f"that is not the service token of {automation_id}")
    address = request.client.host if request.client else "unknown"
    await services.door.check(automation_id, token, address)
    return automation_id


Automation = Annotated[str, Depends(automation)]


@router.post("/automations/{automation_id}/openai-key", responses=LATER)
async def lease_key(
    services: ServicesOf, automation_id: Automation, asked: Annotated[KeyLeaseRequest, Body()]
) -> Lease:
    """Borrow a key to call the provider with; it counts against the same limits as requests do."""
    lease = await services.direct_keys.lease(automation_id, asked)
    secret = lease.api_key
    return Lease(
        lease_id=lease.lease_id,
        key_alias=lease.key_alias,
        api_key=None if secret is None else secret.get_secret_value(),
        sealed_api_key=lease.sealed_api_key,
        base_url=lease.base_url,
        expires_at=lease.expires_at,
        requests=lease.requests,
        tokens=lease.tokens,
    )


@router.post("/automations/{automation_id}/openai-usage", status_code=202, responses=LATER)
async def report_usage(
    services: ServicesOf, automation_id: Automation, report: Annotated[UsageReported, Body()]
) -> Accepted:
    """Report what was spent on a borrowed key; the same `report_id` is booked once."""
    await services.direct_keys.report(automation_id, report)
    return Accepted(report_id=report.report_id)


@router.post("/admin/openai-keys/", status_code=201)
async def add_openai_key(
    services: ServicesOf, caller: Admin, new: Annotated[NewKeyBody, Body()]
) -> KeyDetail:
    """Add a key, as `POST /api/keys` does."""
    return detail(await services.key_changes(caller.actor).add(new.new()))


def _credentials(authorization: str) -> tuple[str | None, SecretStr | None]:
    """The user, where one is named, and the token."""
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer" if rest.strip():
            return None, SecretStr(rest.strip())
        case "basic":
            try:
                user, _, token = base64.b64decode(rest, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None, None
            return user, SecretStr(token) if token else None
    return None, None

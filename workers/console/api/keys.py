"""Keys: add, import, limits, switch, check, remove. A key goes in and never comes out."""

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from contracts.messages import KeyStatus
from contracts.names import AUTOMATION_ID_PATTERN
from infra.errors import NotFoundError, PlatformError
from workers.console.api.callers import Admin, ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import AutomationFilter, KeyId, KeyLimit, Limit, TextFilter
from workers.console.key_changes import Imported
from workers.console.services import Services
from workers.keys.facts import TIERS, KeyFilter, KeyView, Tier, find_keys, key_of_id
from workers.keys.import_file import BadLine, NewKey, read_keys
from workers.keys.key import Limits
from workers.keys.registry import DEFAULT_BASE_URL

router = APIRouter(prefix="/api/keys", tags=["keys"], responses=ANSWERS)

#: The largest file of keys, in bytes, and the keys that one import may add.
LARGEST_FILE = 2 * 1024 * 1024
MOST_IMPORTED = 5000


class KeyLimits(BaseModel):
    """What a key may do; null is without limit."""

    requests_per_minute: KeyLimit | None = None
    tokens_per_minute: KeyLimit | None = None
    tokens_per_day: KeyLimit | None = None
    max_in_flight: KeyLimit | None = None


class NewKeyBody(KeyLimits):
    """A key to add."""

    model_config = ConfigDict(extra="forbid")

    automation_id: str = Field(pattern=AUTOMATION_ID_PATTERN)
    alias: str = Field(min_length=1, max_length=100)
    api_key: SecretStr = Field(min_length=1, max_length=1000)
    base_url: str = Field(default=DEFAULT_BASE_URL, max_length=500)
    tier: Tier = Tier.PRIMARY

    def new(self, line: int = 1) -> NewKey:
        """The same for the services below."""
        limits = Limits(**{name: getattr(self, name) for name in KeyLimits.model_fields})
        tier = TIERS.index(self.tier)
        return NewKey(line, self.automation_id, self.alias, self.api_key, limits, self.base_url, tier)


class KeyChange(KeyLimits):
    """What is to change; what is not named stays as it is."""

    model_config = ConfigDict(extra="forbid")

    tier: Tier = Tier.PRIMARY


class Reason(BaseModel):
    """Why, for the key's history."""

    reason: str = Field(default="by hand", min_length=1, max_length=500)


class KeyOut(BaseModel):
    """A key, with the last four characters of its secret."""

    key_id: str
    automation_id: str
    alias: str
    last_four: str
    base_url: str
    tier: Tier
    status: KeyStatus
    status_reason: str
    status_since: datetime
    status_until: datetime | None
    next_probe_at: datetime | None
    limits: KeyLimits
    warnings: list[str]
    utilisation: float
    minute_requests: int
    minute_tokens: int
    day_tokens: int
    in_flight: int
    latency_ms: float
    error_rate: float
    failures_in_a_row: int


class HistoryEntry(BaseModel):
    """A change of a key's status."""

    model_config = ConfigDict(populate_by_name=True)

    from_: str = Field(alias="from")
    to: str
    reason: str
    until: datetime | None
    actor: str
    at: datetime


class KeyDetail(KeyOut):
    """A key with its history, the oldest first."""

    history: list[HistoryEntry]


class KeyPage(BaseModel):
    """A page of keys, by automation and alias; `after` asks for the next one, null: there is none."""

    keys: list[KeyOut]
    after: str | None


class Check(BaseModel):
    """Whether the provider takes a key."""

    ok: bool
    reason: str


class Import(BaseModel):
    """What became of each key, or would become of it."""

    dry_run: bool
    added: int = Field(description="How many were added, or would be.")
    keys: list[Imported]


_JSON_KEYS: TypeAdapter[list[NewKeyBody]] = TypeAdapter(list[NewKeyBody])
_NEW_KEY = {"$ref": "#/components/schemas/NewKeyBody"}
_IMPORT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/NewKeyBody"}}
            },
            "text/csv": {"schema": {"type": "string"}},
        },
    }
}


@router.get("")
async def list_keys(
    services: ServicesOf,
    _: Viewer,
    *,
    automation_id: AutomationFilter = None,
    status: KeyStatus | None = None,
    text: TextFilter = None,
    after: Annotated[str | None, Query(max_length=200, description="Where the page before ended.")] = None,
    limit: Limit = 500,
) -> KeyPage:
    """Keys with their status and what is used of their limits."""
    wanted = KeyFilter(automation_id, status, text, _position(after))
    found = await find_keys(services.mongo, wanted, most=limit)
    last = found[-1].key if len(found) == limit else None
    keys = [KeyOut.model_validate(view.fields) for view in found]
    return KeyPage(keys=keys, after=None if last is None else f"{last.automation_id}/{last.alias}")


@router.post("", status_code=201)
async def add_key(services: ServicesOf, caller: Admin, new: Annotated[NewKeyBody, Body()]) -> KeyDetail:
    """Add a key; it is not shown again."""
    return detail(await services.key_changes(caller.actor).add(new.new()))


@router.post("/import", openapi_extra=_IMPORT_BODY)
async def import_keys(
    request: Request,
    services: ServicesOf,
    caller: Admin,
    *,
    dry_run: Annotated[bool, Query(description="Only say what would become of each key.")] = False,
) -> Import:
    """Add many keys: a JSON list as of single keys, or CSV text as of `keyway keys import`."""
    lines = _read(await _body(request), request.headers.get("content-type", ""))
    changes = services.key_changes(caller.actor)
    if dry_run:
        keys = await changes.preview(lines)
    else:
        keys = [await changes.import_one(line) for line in lines]
    return Import(dry_run=dry_run, added=sum(key.problem is None for key in keys), keys=keys)


@router.get("/{key_id}")
async def show_key(services: ServicesOf, _: Viewer, key_id: KeyId) -> KeyDetail:
    """One key, with its history."""
    return detail(await _find(services, key_id))


@router.patch("/{key_id}")
async def change_key(
    services: ServicesOf, caller: Admin, key_id: KeyId, change: Annotated[KeyChange, Body()]
) -> KeyDetail:
    """Change a key's limits or its tier."""
    named = change.model_dump(exclude_unset=True)
    tier = named.pop("tier", None)
    view = await _find(services, key_id)
    return detail(await services.key_changes(caller.actor).change(view, limits=named, tier=tier))


@router.post("/{key_id}/disable")
async def disable_key(
    services: ServicesOf, caller: Admin, key_id: KeyId, why: Annotated[Reason, Body()]
) -> KeyDetail:
    """Take a key out of use until it is enabled again."""
    view = await _find(services, key_id)
    return detail(await services.key_changes(caller.actor).set_status(view, "disabled", why.reason))


@router.post("/{key_id}/enable")
async def enable_key(
    services: ServicesOf, caller: Admin, key_id: KeyId, why: Annotated[Reason, Body()]
) -> KeyDetail:
    """Bring a key back into use, from whatever status."""
    view = await _find(services, key_id)
    return detail(await services.key_changes(caller.actor).set_status(view, "active", why.reason))


@router.post("/{key_id}/check")
async def check_key(services: ServicesOf, caller: Admin, key_id: KeyId) -> Check:
    """Ask the provider whether it takes the key (`GET /models`, which costs nothing)."""
    result = await services.key_changes(caller.actor).check(await _find(services, key_id))
    return Check(ok=result.ok, reason=result.reason)


@router.delete("/{key_id}", status_code=204)
async def remove_key(services: ServicesOf, caller: Admin, key_id: KeyId) -> None:
    """Remove a key; its usage stays in the books."""
    await services.key_changes(caller.actor).remove(await _find(services, key_id))


async def _find(services: Services, key_id: str) -> KeyView:
    view = await key_of_id(services.mongo, key_id)
    if view is None:
        raise NotFoundError(f"no key {key_id}")
    return view


def detail(view: KeyView) -> KeyDetail:
    """What is told of one key."""
    return KeyDetail.model_validate(view.fields)


def _position(after: str | None) -> tuple[str, str] | None:
    if after is None:
        return None
    automation_id, _, alias = after.partition("/")
    return automation_id, alias


async def _body(request: Request) -> bytes:
    """The body, as long as it is no larger than a file of keys may be.

    Raises:
        PlatformError: it is larger.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_FILE:
            raise PlatformError(f"the file is larger than {LARGEST_FILE} bytes")
    return bytes(body)


def _read(body: bytes, content_type: str) -> list[NewKey | BadLine]:
    """Read a list of keys; what is wrong with it is said without its values, which may be keys."""
    try:
        text = body.decode()
        if content_type.partition(";")[0].strip().lower() == "text/csv":
            lines = read_keys(text)
        else:
            found = _JSON_KEYS.validate_python(json.loads(text))
            lines = [new.new(line) for line, new in enumerate(found, start=1)]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise PlatformError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise PlatformError("the body is neither JSON nor CSV in UTF-8") from None
    if len(lines) > MOST_IMPORTED:
        raise PlatformError(f"there are more than {MOST_IMPORTED} keys; import them in parts")
    return lines

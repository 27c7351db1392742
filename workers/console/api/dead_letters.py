"""Dead letters: what could not be done; look, do again, or throw away."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from contracts.names import AUTOMATION_ID_PATTERN
from infra.dead_letter_facts import BODY_FIELDS, Wanted
from infra.errors import PlatformError
from workers.console.api.callers import Admin, ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import (
    AutomationFilter,
    LetterId,
    Limit,
    RequestIdFilter,
    TextFilter,
)
from workers.console.dead_letters import Done

router = APIRouter(prefix="/api/dead-letters", tags=["dead letters"], responses=ANSWERS)

#: Letters that may be named at a time.
MOST_NAMED = 1000


class LetterOut(BaseModel):
    """A dead letter, without what it says."""

    id: str
    died_at: datetime | None
    published_at: datetime | None
    automation_id: str
    type: str
    request_id: str
    reason: str


class LetterDetail(LetterOut):
    """A dead letter with its properties; a body that is neither JSON nor text is in base64."""

    routing_key: str
    message_id: str | None
    correlation_id: str | None
    reply_to: str | None
    content_type: str | None
    content_encoding: str | None
    user_id: str | None
    revealed: bool = Field(description="Whether the headers and the body are shown.")
    headers: dict[str, Any] | None = None
    body: Any = None
    body_text: str | None = None
    body_base64: str | None = None


class Selection(BaseModel):
    """Which letters are meant: all that fit all that is named, and nothing where nothing is."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]], Field(max_length=MOST_NAMED)] = []
    automation_id: Annotated[str, Field(pattern=AUTOMATION_ID_PATTERN)] | None = None
    reason: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    all: bool = Field(default=False, description="All of them, where nothing else is named.")

    def wanted(self) -> Wanted:
        """The same for the queue.

        Raises:
            PlatformError: nothing is named.
        """
        wanted = Wanted(frozenset(self.ids), self.automation_id, self.reason, self.request_id)
        if (wanted == Wanted()) != self.all:
            raise PlatformError("say which: ids, automation_id, reason or request_id, else `all` alone")
        return wanted


@router.get("")
async def list_letters(
    services: ServicesOf,
    _: Viewer,
    *,
    automation_id: AutomationFilter = None,
    reason: TextFilter = None,
    request_id: RequestIdFilter = None,
    limit: Limit = 100,
) -> list[LetterOut]:
    """Dead letters, the oldest first; they stay where they are.

    If RabbitMQ delivers fewer than it counted, the answer is 502 and says "n of m", never a part of the list.
    """
    wanted = Wanted(frozenset(), automation_id, reason, request_id)
    listing = await services.dead_letters.list(wanted, most=limit)
    listing.check()
    return [LetterOut.model_validate(letter) for letter in listing.letters]


@router.get("/{letter_id}")
async def show_letter(services: ServicesOf, _: Viewer, letter_id: LetterId) -> LetterDetail:
    """One dead letter; its headers and its body are masked."""
    letter = await services.dead_letters.show(letter_id)
    masked = {name: value for name, value in letter.items() if name not in {"headers", *BODY_FIELDS}}
    return LetterDetail(**masked, revealed=False)


@router.post("/{letter_id}/reveal")
async def reveal_letter(services: ServicesOf, caller: Admin, letter_id: LetterId) -> LetterDetail:
    """One dead letter with all that it says; that it was looked at is written to the audit log."""
    letter = await services.dead_letter_changes(caller.actor).reveal(letter_id)
    return LetterDetail(**letter, revealed=True)


@router.post("/replay")
async def replay_letters(
    services: ServicesOf, caller: Admin, selection: Annotated[Selection, Body()]
) -> Done:
    """Publish dead letters again, to where they came from."""
    return await services.dead_letter_changes(caller.actor).replay(selection.wanted())


@router.post("/drop")
async def drop_letters(services: ServicesOf, caller: Admin, selection: Annotated[Selection, Body()]) -> Done:
    """Throw dead letters away."""
    return await services.dead_letter_changes(caller.actor).drop(selection.wanted())

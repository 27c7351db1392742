"""Requests: those under way and those that ended, and where the time of one went."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from contracts.messages import Outcome
from workers.console.api.callers import ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import (
    AutomationFilter,
    AutomationId,
    Limit,
    Moment,
    RequestIdFilter,
)
from workers.console.request_log import Page, RequestFilter
from workers.console.request_summary import RequestSummary, Status
from workers.console.request_timeline import Step

router = APIRouter(prefix="/api/requests", tags=["requests"], responses=ANSWERS)


class Attempt(BaseModel):
    """One call to the provider, as it is booked."""

    event_id: str
    key_id: str
    key_alias: str
    path: str
    model: str
    outcome: str
    http_status: int | None
    error_code: str | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_nanousd: int
    price_known: bool
    latency_ms: int
    reserved_tokens: int
    source: str
    occurred_at: datetime


class RequestDetailOut(BaseModel):
    """A request with its attempts, and where its time went; no prompt and no answer."""

    summary: RequestSummary
    attempts: list[Attempt]
    steps: list[Step]
    exact: bool
    worker: str | None


@router.get("")
async def search_requests(
    services: ServicesOf,
    _: Viewer,
    *,
    automation_id: AutomationFilter = None,
    request_id: RequestIdFilter = None,
    user_id: Annotated[str | None, Query(min_length=1, max_length=256, description="Booked on.")] = None,
    status: Annotated[Status | None, Query(description="How far.")] = None,
    outcome: Annotated[Outcome | None, Query(description="With an attempt that ended so.")] = None,
    since: Annotated[Moment | None, Query(description="Ended then or later.")] = None,
    before: Annotated[Moment | None, Query(description="Ended earlier: the `before` of a page.")] = None,
    limit: Limit = 100,
) -> Page:
    """Requests, the latest first: those under way, then those that ended."""
    named = None if outcome is None else outcome.value
    wanted = RequestFilter(automation_id, request_id, user_id, status, named, since, before)
    return await services.requests.search(wanted, most=limit)


@router.get("/{automation_id}/{request_id:path}")
async def show_request(
    services: ServicesOf,
    _: Viewer,
    automation_id: AutomationId,
    request_id: Annotated[str, Path(min_length=1, max_length=128)],
) -> RequestDetailOut:
    """One request with its attempts and where its time went."""
    found = await services.requests.find(automation_id, request_id)
    return RequestDetailOut(
        summary=found.summary,
        attempts=[Attempt.model_validate(row) for row in found.attempts],
        steps=found.steps,
        exact=found.exact,
        worker=found.worker,
    )

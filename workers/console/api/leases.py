"""Leases: which keys are lent to automations, until when."""

from typing import Annotated

from fastapi import APIRouter, Query

from workers.console.api.callers import ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import KEY_ID_PATTERN, AutomationFilter, Limit
from workers.console.leases import LeaseFilter, LeaseView

router = APIRouter(prefix="/api/leases", tags=["leases"], responses=ANSWERS)


@router.get("")
async def list_leases(
    services: ServicesOf,
    _: Viewer,
    *,
    automation_id: AutomationFilter = None,
    key_id: Annotated[str | None, Query(pattern=KEY_ID_PATTERN, description="Only of this key.")] = None,
    live: Annotated[bool, Query(description="Only those that are not over.")] = False,
    limit: Limit = 100,
) -> list[LeaseView]:
    """Direct keys of the last 30 days, the newest first: who has which, until when."""
    return await services.leases.read(LeaseFilter(automation_id, key_id, live), most=limit)

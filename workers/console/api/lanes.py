"""Lanes: what waits in them, pause, resume and purge."""

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from workers.console.api.callers import Admin, ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import AutomationId
from workers.console.automations import AutomationView
from workers.console.lanes import Lane

router = APIRouter(prefix="/api/lanes", tags=["lanes"], responses=ANSWERS)


class Confirmation(BaseModel):
    """That one means it."""

    confirm: str = Field(max_length=63, description="The automation's id again.")


class Purged(BaseModel):
    """What was thrown away."""

    automation_id: str
    requests: int


@router.get("")
async def list_lanes(services: ServicesOf, _: Viewer) -> list[Lane]:
    """The lane of each automation: what waits, for how long, and how fast it comes and goes."""
    return await services.lanes.list()


@router.post("/{automation_id}/pause")
async def pause_lane(services: ServicesOf, caller: Admin, automation_id: AutomationId) -> AutomationView:
    """Leave requests in the lane; what workers have in hand is finished."""
    return await services.automation_changes(caller.actor).change(automation_id, {"paused": True})


@router.post("/{automation_id}/resume")
async def resume_lane(services: ServicesOf, caller: Admin, automation_id: AutomationId) -> AutomationView:
    """Serve the lane's requests again."""
    return await services.automation_changes(caller.actor).change(automation_id, {"paused": False})


@router.post("/{automation_id}/purge")
async def purge_lane(
    services: ServicesOf,
    caller: Admin,
    automation_id: AutomationId,
    confirmation: Annotated[Confirmation, Body()],
) -> Purged:
    """Throw away what waits in the lane; nobody gets an answer to it."""
    count = await services.automation_changes(caller.actor).purge(automation_id, confirmation.confirm)
    return Purged(automation_id=automation_id, requests=count)

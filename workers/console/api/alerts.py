"""Alerts: what a person should know."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from workers.console.api.callers import ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import Limit

router = APIRouter(prefix="/api/alerts", tags=["alerts"], responses=ANSWERS)


class AlertOut(BaseModel):
    """An alert; it is open until `resolved_at`."""

    kind: str
    automation_id: str
    subject: str
    label: str
    window: str
    reason: str
    raised_at: datetime
    last_at: datetime
    times: int
    resolved_at: datetime | None


@router.get("")
async def list_alerts(
    services: ServicesOf,
    _: Viewer,
    *,
    everything: Annotated[bool, Query(description="Resolved ones too.")] = False,
    limit: Limit = 100,
) -> list[AlertOut]:
    """Open alerts, the newest first."""
    query = {} if everything else {"resolved_at": None}
    found = services.mongo.alerts.find(query).sort("raised_at", -1).limit(limit)
    return [AlertOut.model_validate(alert) async for alert in found]

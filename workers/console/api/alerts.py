"""Alerts: what a person should know, and whether people were told."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from infra.alerts import AlertKind, Severity, list_alerts
from workers.console.api.callers import ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import Limit

router = APIRouter(prefix="/api/alerts", tags=["alerts"], responses=ANSWERS)


class AlertOut(BaseModel):
    """An alert; it is open until `resolved_at`."""

    kind: AlertKind
    severity: Severity
    automation_id: str | None = Field(description="Whose trouble it is; null: everybody's.")
    subject: str
    label: str
    window: str
    reason: str
    raised_at: datetime
    last_at: datetime
    times: int = Field(description="How often it was raised in its window.")
    resolved_at: datetime | None
    delivery: Literal["waiting", "delivered", "given_up", "no_target"] | None = Field(
        description="What became of the last notice of it; null: it is older than notices are kept, 30 days."
    )
    delivery_attempts: int = Field(description="How often it was tried to deliver that notice.")


@router.get("")
async def read_alerts(
    services: ServicesOf,
    _: Viewer,
    *,
    everything: Annotated[bool, Query(description="Resolved ones too.")] = False,
    limit: Limit = 100,
) -> list[AlertOut]:
    """Open alerts, the newest first."""
    found = await list_alerts(services.mongo, everything=everything, limit=limit)
    return [AlertOut.model_validate(alert) for alert in found]

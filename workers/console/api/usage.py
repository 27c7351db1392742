"""Usage: what a range of days used and cost, as JSON and as CSV."""

from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from workers.console.api.callers import ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import AutomationFilter
from workers.console.usage_report import MOST_NAMED, Days, Dimension, Report

router = APIRouter(prefix="/api", tags=["usage"], responses=ANSWERS)

#: The range where none is named, in days, today included.
USUAL_DAYS = 30
By = Annotated[Dimension, Query(description="What to tell usage apart by.")]


async def days(
    services: ServicesOf,
    first: Annotated[date | None, Query(description="The first UTC day; default: 29 days earlier.")] = None,
    last: Annotated[date | None, Query(description="The last UTC day; default: today.")] = None,
) -> Days:
    """The range of a report."""
    end = last or (await services.mongo.server_time()).date()
    start = first or max(date.min + timedelta(days=USUAL_DAYS), end) - timedelta(days=USUAL_DAYS - 1)
    return Days(start, end)


Range = Annotated[Days, Depends(days)]


@router.get("/usage")
async def read_usage(
    services: ServicesOf,
    _: Viewer,
    days: Range,
    *,
    by: By = Dimension.KEY,
    automation_id: AutomationFilter = None,
    most: Annotated[int, Query(ge=1, le=500, description="Rows; the rest is `others`.")] = MOST_NAMED,
) -> Report:
    """What a range of days used and cost: in all, by day, and the dearest keys, users, … by themselves."""
    return await services.usage.read(by, days, automation_id, most=most)


@router.get(
    "/usage.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def export_usage(
    services: ServicesOf,
    _: Viewer,
    days: Range,
    *,
    by: By = Dimension.KEY,
    automation_id: AutomationFilter = None,
) -> StreamingResponse:
    """The totals of each day as CSV, a line each."""
    name = f"keyway-usage-by-{by.value}-{days.first}-{days.last}.csv"
    return StreamingResponse(
        services.usage.export(by, days, automation_id),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )

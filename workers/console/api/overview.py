"""The state of things at a glance."""

from fastapi import APIRouter

from workers.console.api.callers import ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.overview import Overview

router = APIRouter(prefix="/api/overview", tags=["overview"], responses=ANSWERS)


@router.get("")
async def read_overview(services: ServicesOf, _: Viewer) -> Overview:
    """How much is asked and answered, what it costs, how long it takes; at most a second old."""
    return await services.overviews.read()

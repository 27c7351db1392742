"""Budgets: what automations, keys and users may spend in a UTC day or month; list, set, remove."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, ConfigDict, Field

from contracts.names import AUTOMATION_ID_PATTERN
from infra.errors import PlatformError
from infra.money import MOST_USD, NANO
from workers.budgets.budget import SPENT_PERCENT, Scope, Window
from workers.budgets.registry import Standing, Subject
from workers.console.api.callers import Admin, ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import AutomationFilter

router = APIRouter(prefix="/api/budgets", tags=["budgets"], responses=ANSWERS)

KEY_HELP = "The alias of the key whose budget it is."
USER_HELP = "The user whose budget it is; without key and user, it is the automation's own."


class BudgetBody(BaseModel):
    """A budget to set; there is one of a subject and a window, which is changed where it is there."""

    model_config = ConfigDict(extra="forbid")

    automation_id: str = Field(pattern=AUTOMATION_ID_PATTERN)
    key: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description=KEY_HELP
    )
    user: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description=USER_HELP
    )
    window: Window = Field(description="In UTC.")
    limit_nanousd: int = Field(ge=1, le=MOST_USD * NANO)
    soft_percent: Annotated[int, Field(ge=1, le=SPENT_PERCENT)] | None = Field(
        default=None, description="From which share of it on an alert is raised; null: as it is, or 80."
    )
    hard: bool | None = Field(
        default=None, description="Whether it stops calls when spent; null: as it is, or yes."
    )


class BudgetOut(BaseModel):
    """A budget, and how it stands by the books; `subject` is an alias, a user, or the automation."""

    automation_id: str
    scope: Scope
    subject: str
    window: Window
    period: str = Field(description="The UTC day or month that it is in.")
    limit_nanousd: int
    spent_nanousd: int
    held_nanousd: int = Field(description="What calls under way may cost yet.")
    soft_percent: int
    hard: bool
    until: datetime = Field(description="When the next period begins.")


@router.get("")
async def list_budgets(
    services: ServicesOf, _: Viewer, *, automation_id: AutomationFilter = None
) -> list[BudgetOut]:
    """Budgets, with what is spent of them by the books."""
    return [_out(standing) for standing in await services.budgets.list(automation_id)]


@router.put("")
async def set_budget(services: ServicesOf, caller: Admin, body: Annotated[BudgetBody, Body()]) -> BudgetOut:
    """Set a budget, or change it; what is spent of its period already counts."""
    budget = await services.budget_changes(caller.actor).set(
        _subject(body.automation_id, body.key, body.user),
        body.window,
        body.limit_nanousd,
        soft_percent=body.soft_percent,
        hard=body.hard,
    )
    (standing,) = await services.budgets.standings({"_id": budget.id})
    return _out(standing)


@router.delete("", status_code=204)
async def remove_budget(
    services: ServicesOf,
    caller: Admin,
    *,
    automation_id: Annotated[str, Query(pattern=AUTOMATION_ID_PATTERN)],
    window: Annotated[Window, Query(description="Which one.")],
    key: Annotated[str | None, Query(min_length=1, max_length=100, description=KEY_HELP)] = None,
    user: Annotated[str | None, Query(min_length=1, max_length=256, description=USER_HELP)] = None,
) -> None:
    """Remove a budget."""
    await services.budget_changes(caller.actor).remove(_subject(automation_id, key, user), window)


def _subject(automation_id: str, key: str | None, user: str | None) -> Subject:
    """Whose budget.

    Raises:
        PlatformError: both a key and a user are named.
    """
    if key is not None and user is not None:
        raise PlatformError("name a key or a user, not both")
    return Subject(automation_id, key, user)


def _out(standing: Standing) -> BudgetOut:
    budget = standing.budget
    return BudgetOut(
        automation_id=budget.automation_id,
        scope=budget.scope,
        subject=budget.label,
        window=budget.window,
        period=standing.period,
        limit_nanousd=budget.limit,
        spent_nanousd=standing.spent,
        held_nanousd=budget.held,
        soft_percent=budget.soft_percent,
        hard=budget.hard,
        until=datetime.fromtimestamp(standing.until, UTC),
    )

"""Automations: add, list, change, switch, pause, and give a new token."""

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from contracts.names import AUTOMATION_ID_PATTERN
from workers.console.api.callers import Admin, ServicesOf, Viewer
from workers.console.api.errors import ANSWERS
from workers.console.api.parameters import AutomationId
from workers.console.automations import AutomationView

router = APIRouter(prefix="/api/automations", tags=["automations"], responses=ANSWERS)

#: Calls at a time that a cap may allow.
MOST_IN_FLIGHT = 1_000_000


class AutomationSettings(BaseModel):
    """What is to be set; what is not named stays as it is, or as it is by default."""

    model_config = ConfigDict(extra="forbid")

    max_in_flight: Annotated[int, Field(ge=1, le=MOST_IN_FLIGHT)] | None = Field(
        default=None, description="Calls at a time, over all its keys and all workers; null: no cap."
    )
    deadline_s: int = Field(
        default=600, ge=1, le=86_400, description="Seconds a request may take that names no deadline."
    )
    call_timeout_s: int = Field(
        default=300, ge=1, le=1200, description="Seconds that one call to the provider may take."
    )
    allow_leases: bool = Field(default=False, description="Whether it may ask for keys to call with itself.")

    def named(self) -> dict[str, int | None]:
        """The settings that were named, as they stand in an automation's document."""
        named: dict[str, int | None] = self.model_dump(
            include=set(AutomationSettings.model_fields), exclude_unset=True
        )
        return named


class NewAutomation(AutomationSettings):
    """An automation to add."""

    automation_id: str = Field(pattern=AUTOMATION_ID_PATTERN)


class AutomationChange(AutomationSettings):
    """What is to change."""

    enabled: bool = Field(default=True, description="Off: its requests are answered `automation_disabled`.")
    paused: bool = Field(default=False, description="Its requests wait in their lane until it is resumed.")


class ServiceToken(BaseModel):
    """A service token, the automation's password at RabbitMQ; it is shown this once."""

    automation_id: str
    service_token: str


class BegunRotation(ServiceToken):
    """A second token, which works beside the first until the rotation is finished."""

    user: str = Field(description="The RabbitMQ user to use it with until then.")
    replaced: bool = Field(description="Whether a rotation was under way, whose token this one replaces.")


class FinishedRotation(BaseModel):
    """The old token is refused from now on."""

    automation_id: str
    closed_connections: int


@router.get("")
async def list_automations(services: ServicesOf, _: Viewer) -> list[AutomationView]:
    """All automations: their settings, their keys by status, which of their processes are alive."""
    return await services.automations.read()


@router.post("", status_code=201)
async def add_automation(
    services: ServicesOf, caller: Admin, new: Annotated[NewAutomation, Body()]
) -> ServiceToken:
    """Add an automation, which gets a service token."""
    token = await services.automation_changes(caller.actor).add(new.automation_id, new.named())
    return ServiceToken(automation_id=new.automation_id, service_token=token.get_secret_value())


@router.get("/{automation_id}")
async def show_automation(services: ServicesOf, _: Viewer, automation_id: AutomationId) -> AutomationView:
    """One automation."""
    return await services.automations.find(automation_id)


@router.patch("/{automation_id}")
async def change_automation(
    services: ServicesOf,
    caller: Admin,
    automation_id: AutomationId,
    change: Annotated[AutomationChange, Body()],
) -> AutomationView:
    """Change settings, switch an automation on or off, pause or resume its lane."""
    fields = change.model_dump(exclude_unset=True)
    return await services.automation_changes(caller.actor).change(automation_id, fields)


@router.post("/{automation_id}/token-rotation", status_code=201)
async def begin_rotation(services: ServicesOf, caller: Admin, automation_id: AutomationId) -> BegunRotation:
    """Give an automation a second token; the first one works on until the rotation is finished."""
    rotation = await services.automation_changes(caller.actor).begin_rotation(automation_id)
    return BegunRotation(
        automation_id=automation_id,
        service_token=rotation.token.get_secret_value(),
        user=rotation.user,
        replaced=rotation.replaced,
    )


@router.post("/{automation_id}/token-rotation/finish")
async def finish_rotation(
    services: ServicesOf, caller: Admin, automation_id: AutomationId
) -> FinishedRotation:
    """End the overlap: the old token is refused, and connections that were opened with it are closed."""
    closed = await services.automation_changes(caller.actor).finish_rotation(automation_id)
    return FinishedRotation(automation_id=automation_id, closed_connections=closed)

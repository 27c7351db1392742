"""An automation as leasing needs to know it."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, ValidationError

from contracts.errors import ErrorCode
from infra.automation_documents import AutomationId, problem_of, read_automation
from infra.mongo import Document
from workers.leasing.refusals import Failure


@dataclass(frozen=True, slots=True)
class Automation:
    """What is read of an automation's document to lend it a key.

    Attributes:
        id: its id.
        enabled: whether it may ask at all.
        allow_leases: whether it may have keys.
        max_in_flight: calls in flight, over all workers; None: without a cap of its own.
    """

    id: AutomationId
    enabled: bool
    allow_leases: bool = False
    max_in_flight: Annotated[int, Field(ge=0)] | None = None


def read(document: Document) -> Automation | Failure:
    """Read an automation's document, or say to who asks for a key what can't be read."""
    try:
        return read_automation(Automation, document)
    except ValidationError as error:
        field, reason = problem_of(error)
        message = f"the automation's settings can't be read: {field}: {reason}; an operator has to mend them"
        return Failure(ErrorCode.INTERNAL, message)


def unwilling(automation: Automation) -> Failure | None:
    """Why an automation gets no key whatever there is; None where it may have one."""
    if not automation.enabled:
        return Failure(ErrorCode.AUTOMATION_DISABLED, "an operator switched the automation off")
    if not automation.allow_leases:
        how = f"an operator turns them on with `keyway automations set {automation.id} --allow-leases`"
        return Failure(ErrorCode.INVALID_REQUEST, f"direct keys are off for {automation.id}; {how}")
    return None

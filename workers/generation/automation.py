"""An automation as a worker needs to know it."""

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from infra.automation_documents import AutomationId, read_automation
from infra.mongo import Document

#: In seconds; a day at the most.
_Duration = Annotated[float, Field(gt=0, le=86_400)]


@dataclass(frozen=True, slots=True)
class Automation:
    """What a worker needs to know of an automation; durations in seconds."""

    id: AutomationId
    enabled: bool
    deadline_s: _Duration
    call_timeout_s: _Duration
    #: Calls in flight, over all workers; None: without a cap of its own.
    max_in_flight: Annotated[int, Field(ge=0)] | None = None
    #: Whether its lane is left alone for now.
    paused: bool = False

    @classmethod
    def from_document(cls, document: Document) -> Self:
        """Read an automation's document.

        Raises:
            ValidationError: it can't be read.
        """
        return read_automation(cls, document)

"""An automation as a worker needs to know it."""

from dataclasses import dataclass
from typing import Self

from infra.mongo import Document


@dataclass(frozen=True, slots=True)
class Automation:
    """What a worker needs to know of an automation; durations in seconds."""

    id: str
    enabled: bool
    deadline_s: float
    call_timeout_s: float
    #: Calls in flight, over all workers; None: without a cap of its own.
    max_in_flight: int | None
    #: Whether its lane is left alone for now.
    paused: bool = False

    @classmethod
    def from_document(cls, document: Document) -> Self:
        """Read an automation's document."""
        return cls(
            document["_id"],
            document["enabled"],
            float(document["deadline_s"]),
            float(document["call_timeout_s"]),
            document.get("max_in_flight"),
            document.get("paused", False),
        )

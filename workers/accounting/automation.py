"""An automation as accounting needs to know it."""

from dataclasses import dataclass

from pydantic import AwareDatetime

from infra.automation_documents import AutomationId


@dataclass(frozen=True, slots=True)
class StoredAutomation:
    """What is read of an automation's document for alerts and metrics.

    Attributes:
        id: its id.
        enabled: whether it may ask at all.
        created_at: since when it is there.
        paused: whether its lane is.
        last_heartbeat_at: when one of its processes gave a sign of life; None: never.
    """

    id: AutomationId
    enabled: bool
    created_at: AwareDatetime
    paused: bool = False
    last_heartbeat_at: AwareDatetime | None = None


#: The fields of the documents that are needed.
FIELDS = {"enabled": 1, "created_at": 1, "paused": 1, "last_heartbeat_at": 1}

"""The message bodies of wire.md, version 1, as pydantic models."""

from contracts.messages.events import (
    BudgetCrossed,
    ConfigChanged,
    Heartbeat,
    KeyStatus,
    KeyStatusChanged,
    UsageRecorded,
    UsageReported,
)
from contracts.messages.generation import (
    Attempt,
    GenerationChunk,
    GenerationRequest,
    GenerationResult,
    Outcome,
    Path,
    ResultError,
    Timings,
    Usage,
)
from contracts.messages.leases import KeyLease, KeyLeaseRequest

__all__ = [
    "Attempt",
    "BudgetCrossed",
    "ConfigChanged",
    "GenerationChunk",
    "GenerationRequest",
    "GenerationResult",
    "Heartbeat",
    "KeyLease",
    "KeyLeaseRequest",
    "KeyStatus",
    "KeyStatusChanged",
    "Outcome",
    "Path",
    "ResultError",
    "Timings",
    "Usage",
    "UsageRecorded",
    "UsageReported",
]

"""Keyway's wire as code: what an automation needs, and nothing else."""

from contracts.client import Keyway
from contracts.errors import ErrorCode, GenerationError, KeywayError, PublishError, ReplyTimeoutError
from contracts.leases import Lease
from contracts.many import Progress
from contracts.messages import GenerationChunk, GenerationRequest, GenerationResult
from contracts.stream import GenerationStream
from contracts.sync_client import SyncKeyway

__all__ = [
    "ErrorCode",
    "GenerationChunk",
    "GenerationError",
    "GenerationRequest",
    "GenerationResult",
    "GenerationStream",
    "Keyway",
    "KeywayError",
    "Lease",
    "Progress",
    "PublishError",
    "ReplyTimeoutError",
    "SyncKeyway",
]

"""Keyway's wire as code: what an automation needs, and nothing else."""

from contracts.client import Keyway
from contracts.errors import ErrorCode, GenerationError, KeywayError, PublishError, ReplyTimeoutError
from contracts.messages import GenerationChunk, GenerationRequest, GenerationResult

__all__ = [
    "ErrorCode",
    "GenerationChunk",
    "GenerationError",
    "GenerationRequest",
    "GenerationResult",
    "Keyway",
    "KeywayError",
    "PublishError",
    "ReplyTimeoutError",
]

"""Keyway's wire as code: what an automation needs, and nothing else.

Each name is imported when it is first used, so that who needs a message's model does not wait for the client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "Keyway": "client",
    "Lease": "leases",
    "Progress": "many",
    "GenerationChunk": "messages",
    "GenerationRequest": "messages",
    "GenerationResult": "messages",
    "GenerationStream": "stream",
    "SyncKeyway": "sync_client",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"contracts.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value

"""Which request a retry of the OpenAI SDK goes on with.

The SDK asks again after a timeout or a lost connection, in the same task or thread, and sends nothing that
would name the first try but the number of the retry. A try whose end nobody knows may still be done and
billed; its retry must bear the same id, so that it is answered from what was done.
"""

from __future__ import annotations

import uuid
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256

#: The SDK's header that numbers its tries of one call, from 0.
RETRY_COUNT = "x-stainless-retry-count"


@dataclass(frozen=True, slots=True)
class _Open:
    digest: bytes
    request_id: str


_open: ContextVar[_Open | None] = ContextVar("keyway_open_request", default=None)


def request_id_of(content: bytes, retry_count: str | None) -> str:
    """The id of a request that the program gave none.

    Args:
        content: the path and body.
        retry_count: the value of `RETRY_COUNT`.

    Returns:
        That of this task's last request if it was left open and this is its retry; otherwise a new one.
    """
    last = _open.get()
    _open.set(None)
    if last is not None and retry_count not in {None, "0"} and last.digest == sha256(content).digest():
        return last.request_id
    return str(uuid.uuid4())


def left_open(content: bytes, request_id: str) -> None:
    """Remember that nobody knows how this task's request ends."""
    _open.set(_Open(sha256(content).digest(), request_id))

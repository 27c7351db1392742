"""A request that a worker is busy with, and why it may have to leave it."""

import asyncio
from dataclasses import dataclass, field

from infra.deliveries import Delivery
from workers.generation.attempts import Reserving
from workers.generation.automation import Automation
from workers.generation.chunks import Chunks
from workers.generation.journal import Call, Claim, Record
from workers.generation.reading import Request
from workers.generation.result import Error, Progress


@dataclass(slots=True)
class Work:
    """A request that this worker has claimed, and what became of it so far."""

    message: Delivery
    request: Request
    automation: Automation
    claim: Claim
    reserving: Reserving | None
    #: How it ends without a call, where that is known before.
    ended: Error | None
    #: What passes the answer on as it comes, where that is asked for.
    chunks: Chunks | None = None
    progress: Progress = field(default_factory=Progress)
    #: The call that the journal knows of, and whether it is under way.
    call: Call | None = None
    calling: bool = False
    events: list[bytes] = field(default_factory=list)
    #: The usage event of the answer, until that is recorded.
    answered: tuple[bytes, asyncio.Future[None]] | None = None
    accounted: list[asyncio.Task[None]] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """How a request has ended.

    Attributes:
        status: `succeeded`, or an error's code.
        body: the reply, up to its `replayed`.
        record: what the journal keeps of it.
        why: what operators are told of our own failure.
        is_mine: whether this worker recorded it, and so answers; known once it is recorded.
    """

    status: str
    body: bytes
    record: Record
    why: str
    is_mine: bool = False


class HandedBackError(Exception):
    """The delivery goes back to its queue, for another worker or a better moment."""


class LaneFullError(Exception):
    """No key of the lane has room for so long, in seconds: its deliveries go back, and it is paused."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"no room for {wait_s:.1f} s")
        self.wait_s = wait_s

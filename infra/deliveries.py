"""Deliveries that a service has in hand: acknowledged, and finished before it stops."""

import asyncio
import unicodedata
from collections.abc import Awaitable, Collection, Coroutine, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

import structlog
from aio_pika.abc import HeadersType
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from contracts import names
from infra.background_tasks import BackgroundTasks
from infra.telemetry import RequestIdentity
from infra.trace_headers import trace_ids

log = structlog.get_logger()

#: The longest id of a message that is told from others by it, in characters.
LONGEST_ID = 128


class Delivery(Protocol):
    """What is asked of a delivery: aio-pika's are such, and `infra.consumed_deliveries`."""

    @property
    def body(self) -> bytes:
        """What was published."""

    @property
    def headers(self) -> HeadersType:
        """The message's own; empty where it has none."""

    @property
    def content_type(self) -> str | None:
        """Of the body."""

    @property
    def type(self) -> str | None:
        """Which kind of message it is."""

    @property
    def message_id(self) -> str | None:
        """Which message it is."""

    @property
    def correlation_id(self) -> str | None:
        """What an answer names."""

    @property
    def reply_to(self) -> str | None:
        """Where an answer goes."""

    @property
    def timestamp(self) -> datetime | None:
        """When it was published, to the second."""

    @property
    def expiration(self) -> object:
        """Its time to live; of a delivery in seconds."""

    @property
    def exchange(self) -> str | None:
        """That it was published to."""

    @property
    def routing_key(self) -> str | None:
        """That it was published with."""

    @property
    def redelivered(self) -> bool | None:
        """Whether it was delivered before."""

    async def ack(self) -> None:
        """Acknowledge it."""

    async def nack(self, *, requeue: bool) -> None:
        """Hand it back."""

    async def reject(self, *, requeue: bool) -> None:
        """Refuse it."""


def why_unreadable(headers: Mapping[str, Any] | None) -> str | None:
    """What of a message's properties can't be read, by its headers; None where all of them can."""
    found = (headers or {}).get(names.UNDECODABLE_HEADER)
    if found is None:
        return None
    reason = found.get("reason") if isinstance(found, dict) else None
    return reason if isinstance(reason, str) else f"there is a header {names.UNDECODABLE_HEADER}"


def why_no_id(message_id: str) -> str | None:
    """What is wrong with a message id that an answer, a log and a database should name; None: nothing."""
    if len(message_id) > LONGEST_ID:
        return f"message_id has {len(message_id)} characters, expected 1 to {LONGEST_ID}"
    if message_id.isprintable():
        return None
    has_control = any(unicodedata.category(character) == "Cc" for character in message_id)
    return "message_id has control characters" if has_control else None


async def unless_closed(acknowledgement: Awaitable[None], about: RequestIdentity | None = None) -> None:
    """Acknowledge, unless the channel is gone: then the delivery is, too, and comes again.

    Args:
        acknowledgement: what acknowledges it, or hands it back.
        about: the request that was delivered, for the log, where it was read.
    """
    try:
        await acknowledgement
    except (AMQPError, ChannelInvalidStateError, ConnectionError):
        log.info("delivery_gone", about=about)


class DeliveriesInHand:
    """Deliveries that a service does side by side, each to its end, whatever becomes of its consumer."""

    def __init__(self, owner: str) -> None:
        """Begin with none.

        Args:
            owner: whose they are, for the log, such as `lanes`.
        """
        self._tasks = BackgroundTasks(owner)

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do a delivery beside the others."""
        self._tasks.start("delivery", work)

    async def finish(self, grace_s: float) -> None:
        """Give those under way so long to finish; the rest are cancelled, and hand themselves back.

        Args:
            grace_s: in seconds.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._tasks.drain()
        if late := len(self._tasks):
            log.warning("handed_back", deliveries=late)
        await self._tasks.close()


async def reject_if_it_fails(message: Delivery, automation_id: str, handling: Awaitable[None]) -> None:
    """Do a delivery; where that raises, log it and reject the delivery alone.

    Args:
        message: the delivery.
        automation_id: whose it is, for the log.
        handling: does it, and acknowledges it.
    """
    try:
        await handling
    except Exception:
        log.exception(
            "delivery_failed",
            automation_id=automation_id,
            request_id=message.message_id,
            **trace_ids(message.headers),
        )
        await unless_closed(message.reject(requeue=False))


async def finish(busy: Collection[asyncio.Task[None]], grace_s: float) -> None:
    """Give deliveries under way so long to finish; the rest are cancelled, and hand themselves back.

    Args:
        busy: the tasks that do them, at least one.
        grace_s: in seconds.
    """
    _, late = await asyncio.wait(busy, timeout=grace_s)
    for task in late:
        task.cancel()
    if late:
        log.warning("handed_back", deliveries=len(late))
        await asyncio.wait(late)

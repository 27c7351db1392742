"""Deliveries that a service has in hand: acknowledged, and finished before it stops."""

import asyncio
from collections.abc import Awaitable, Collection

import structlog
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from infra.telemetry import RequestIdentity

log = structlog.get_logger()


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

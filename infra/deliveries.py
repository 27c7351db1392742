"""Deliveries that a service has in hand: acknowledged, and finished before it stops."""

import asyncio
from collections.abc import Awaitable, Collection

import structlog
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

log = structlog.get_logger()


async def unless_closed(acknowledgement: Awaitable[None]) -> None:
    """Acknowledge, unless the channel is gone: then the delivery is, too, and comes again."""
    try:
        await acknowledgement
    except (AMQPError, ChannelInvalidStateError, ConnectionError):
        log.info("delivery_gone")


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

"""Transactional outbox: events are written with what they tell of, and published from there until confirmed.

The pattern is Richardson's "Transactional outbox"; an event may be published twice, never not.
"""

import secrets
import struct
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog
from pydantic import BaseModel

from contracts import names
from contracts.messages import ConfigChanged
from infra.mongo import Document, Mongo

#: Events that are read and published at a time.
PAGE = 200
#: How the AMQP library says that an event can't be put into a frame, today or ever.
UNSENDABLE = (ValueError, TypeError, OverflowError, struct.error)

log = structlog.get_logger()


def outgoing(message_type: str, automation_id: str, event: BaseModel) -> Document:
    """The outbox document of an event; insert it in the transaction that it tells of."""
    return {
        "_id": secrets.token_hex(12),
        "type": message_type,
        "routing_key": names.event_routing_key(message_type, automation_id),
        "body": event.model_dump_json(by_alias=True).encode(),
        "at": datetime.now(UTC),
    }


async def announce(mongo: Mongo, automation_id: str, what: str, actor: str) -> None:
    """Tell workers of a change by `config.changed`.

    Args:
        mongo: the database.
        automation_id: whose keys, limits or settings changed.
        what: in a few words.
        actor: who changed it.
    """
    event = ConfigChanged(automation_id=automation_id, what=what, actor=actor, occurred_at=datetime.now(UTC))
    await mongo.outbox.insert_one(outgoing(names.CONFIG_CHANGED, automation_id, event))


async def publish_outbox(mongo: Mongo, publish: Callable[[Document], Awaitable[None]]) -> int:
    """Publish what waits in the outbox, oldest first, and forget what is confirmed or can never be sent.

    Args:
        mongo: where it is.
        publish: publishes one event and returns when the broker has confirmed it.

    Returns:
        How many were published.
    """
    published = 0
    while page := [event async for event in mongo.outbox.find().sort("at", 1).limit(PAGE)]:
        for event in page:
            try:
                await publish(event)
            except UNSENDABLE as error:
                log.error("event_unsendable", type=event["type"], error=type(error).__name__)  # noqa: TRY400
            await mongo.outbox.delete_one({"_id": event["_id"]})
            published += 1
    return published

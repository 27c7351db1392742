"""Transactional outbox: events are written with what they tell of, and published from there until confirmed.

The pattern is Richardson's "Transactional outbox"; an event may be published twice, never not.
"""

import secrets
import struct
from collections.abc import Awaitable, Callable

import structlog
from pydantic import BaseModel

from contracts import names
from contracts.messages import ConfigChanged
from infra.mongo import Document, Mongo, Session

#: Events that are read and published at a time.
PAGE = 200
#: How it is said that a document lacks a field, or that an event can't be put into a frame, today or ever.
UNSENDABLE = (AttributeError, KeyError, ValueError, TypeError, OverflowError, struct.error)

log = structlog.get_logger()


def outgoing(message_type: str, automation_id: str, event: BaseModel) -> Document:
    """The outbox document of an event, for `put_into_outbox`."""
    return {
        "_id": secrets.token_hex(12),
        "type": message_type,
        "routing_key": names.event_routing_key(message_type, automation_id),
        "body": event.model_dump_json(by_alias=True).encode(),
    }


async def put_into_outbox(mongo: Mongo, event: Document, session: Session | None = None) -> None:
    """Have an event published, after those that were put in before it by MongoDB's clock.

    Args:
        mongo: the database.
        event: made by `outgoing`.
        session: of the transaction that the event tells of; None: the event belongs to none.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    await mongo.outbox.update_one(
        {"_id": event["_id"]},
        {"$setOnInsert": event, "$currentDate": {"at": True}},
        upsert=True,
        session=session,
    )


async def announce(mongo: Mongo, automation_id: str, what: str, actor: str) -> None:
    """Tell workers of a change by `config.changed`.

    Args:
        mongo: the database.
        automation_id: whose keys, limits or settings changed.
        what: in a few words.
        actor: who changed it.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    now = await mongo.server_time()
    event = ConfigChanged(automation_id=automation_id, what=what, actor=actor, occurred_at=now)
    await put_into_outbox(mongo, outgoing(names.CONFIG_CHANGED, automation_id, event))


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
                log.error("event_unsendable", type=event.get("type"), error=type(error).__name__)  # noqa: TRY400
            await mongo.outbox.delete_one({"_id": event["_id"]})
            published += 1
    return published

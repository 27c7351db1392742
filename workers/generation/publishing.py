"""Publishing what a worker has to say beside its answers, each message confirmed before anything follows."""

import asyncio

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage, AbstractRobustConnection
from aiormq.abc import FieldValue
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError

from contracts import names
from infra.dead_letters import dead_letter
from workers.generation.reading import Envelope

log = structlog.get_logger()

#: How long a confirm may take before the message is published again, in seconds.
CONFIRM_TIMEOUT_S = 30.0
#: Seconds between attempts while the broker is away.
RETRY_S = 0.5
#: Whether a message that fails so has arrived, nobody knows.
UNCONFIRMED = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)
JSON = "application/json"


class Publisher:
    """Events and dead letters, each on a channel of its own, with confirms."""

    def __init__(self, events: AbstractExchange, dead: AbstractExchange) -> None:
        """Take the exchanges; make one with `open`."""
        self._events = events
        self._dead = dead

    @classmethod
    async def open(cls, connection: AbstractRobustConnection) -> "Publisher":
        """Open the channels.

        A channel each, since aiormq tells returned messages apart by message id within a channel.
        """
        events = await connection.channel(publisher_confirms=True, on_return_raises=True)
        dead = await connection.channel(publisher_confirms=True, on_return_raises=True)
        return cls(
            await events.get_exchange(names.EVENTS_EXCHANGE, ensure=False),
            await dead.get_exchange(names.DEAD_EXCHANGE, ensure=False),
        )

    async def usage(self, envelope: Envelope, event: bytes) -> None:
        """Publish a `usage.recorded`; without accounting's queue it is tried until that is there."""
        message = Message(
            event,
            content_type=JSON,
            type=names.USAGE_RECORDED,
            delivery_mode=DeliveryMode.PERSISTENT,
            headers=trace_headers(envelope),
        )
        routing_key = names.event_routing_key(names.USAGE_RECORDED, envelope.automation_id)
        while True:
            try:
                return await _confirmed(self._events, message, routing_key, envelope)
            except DeliveryError:
                log.warning(
                    "usage_unroutable", about=envelope, routing_key=routing_key, hint="run `keyway init`"
                )
                await asyncio.sleep(RETRY_S)

    async def dead_letter(self, original: AbstractIncomingMessage, envelope: Envelope, reason: str) -> None:
        """Put a copy of a message with its reason into the `dead` queue."""
        await _confirmed(self._dead, dead_letter(original, reason), envelope.automation_id, envelope)


def trace_headers(envelope: Envelope) -> dict[str, FieldValue] | None:
    """The headers of a message that follows from a request."""
    return None if envelope.trace is None else {**envelope.trace}


async def _confirmed(exchange: AbstractExchange, message: Message, routing_key: str, about: Envelope) -> None:
    """Publish until the broker confirms.

    Raises:
        DeliveryError: no queue takes it.
    """
    while True:
        try:
            return await publish(exchange, message, routing_key, mandatory=True)
        except DeliveryError:
            raise
        except UNCONFIRMED as error:
            log.warning("publish_delayed", about=about, error=type(error).__name__)
            await asyncio.sleep(RETRY_S)


async def publish(exchange: AbstractExchange, message: Message, routing_key: str, *, mandatory: bool) -> None:
    """Publish once, and wait for the broker's confirm.

    Raises:
        DeliveryError: it is mandatory, and no queue takes it.
        UNCONFIRMED: nobody knows whether it has arrived.
    """
    await exchange.publish(message, routing_key, mandatory=mandatory, timeout=CONFIRM_TIMEOUT_S)

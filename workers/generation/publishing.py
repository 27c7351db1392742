"""Publishing what a worker has to say beside its answers, each message confirmed before anything follows."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from aio_pika import DeliveryMode
from aio_pika.abc import AbstractExchange, AbstractRobustConnection
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError
from pamqp.commands import Basic

from contracts import names
from infra.confirmed_publishing import CONFIRM_TIMEOUT_S, ConfirmedPublishing
from infra.dead_letters import dead_letter
from infra.deliveries import Delivery
from workers.generation.reading import Envelope

log = structlog.get_logger()

#: Seconds between attempts while the broker is away.
RETRY_S = 0.5
#: Whether a message that fails so has arrived, nobody knows.
UNCONFIRMED = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)
JSON = "application/json"


class Publisher:
    """Events and dead letters, each on a channel of its own, with confirms."""

    def __init__(self, events: ConfirmedPublishing, dead: AbstractExchange) -> None:
        """Take what publishes; make one with `open`."""
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
            ConfirmedPublishing(events),
            await dead.get_exchange(names.DEAD_EXCHANGE, ensure=False),
        )

    async def usage(self, envelope: Envelope, event: bytes) -> None:
        """Publish a `usage.recorded`; without accounting's queue it is tried until that is there."""
        properties = persistent(names.USAGE_RECORDED, envelope)
        routing_key = names.event_routing_key(names.USAGE_RECORDED, envelope.automation_id)
        publish = partial(
            self._events.publish,
            event,
            properties,
            exchange=names.EVENTS_EXCHANGE,
            routing_key=routing_key,
            mandatory=True,
        )
        while True:
            try:
                return await _until_confirmed(publish, envelope)
            except DeliveryError:
                log.warning(
                    "usage_unroutable", about=envelope, routing_key=routing_key, hint="run `keyway init`"
                )
                await asyncio.sleep(RETRY_S)

    async def dead_letter(self, original: Delivery, envelope: Envelope, reason: str) -> None:
        """Put a copy of a message with its reason into the `dead` queue."""
        publish = partial(
            self._dead.publish,
            dead_letter(original, reason),
            envelope.automation_id,
            mandatory=True,
            timeout=CONFIRM_TIMEOUT_S,
        )
        await _until_confirmed(publish, envelope)


def persistent(message_type: str, envelope: Envelope) -> Basic.Properties:
    """The properties of a message that follows from a request, as far as all such have them."""
    return Basic.Properties(
        content_type=JSON,
        delivery_mode=DeliveryMode.PERSISTENT,
        headers={} if envelope.trace is None else {**envelope.trace},
        message_type=message_type,
    )


async def _until_confirmed(publish: Callable[[], Awaitable[object]], about: Envelope) -> None:
    """Publish until the broker confirms.

    Raises:
        DeliveryError: no queue takes it.
    """
    while True:
        try:
            await publish()
        except DeliveryError:
            raise
        except UNCONFIRMED as error:
            log.warning("publish_delayed", about=about, error=type(error).__name__)
            await asyncio.sleep(RETRY_S)
        else:
            return

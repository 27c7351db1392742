"""Publishing what a worker has to say beside its answers, each message confirmed before anything follows."""

from functools import partial

import structlog
from aio_pika import DeliveryMode
from aio_pika.abc import AbstractRobustConnection
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError
from pamqp.commands import Basic

from contracts import names
from contracts.message_size import SizeLimit
from contracts.retrying import retrying
from infra.confirmed_publishing import ConfirmedPublishing
from infra.dead_letters import DeadLetters
from infra.deliveries import Delivery
from workers.generation.reading import Envelope

log = structlog.get_logger()

#: The first pause after a failed try, in seconds; each further one is twice as long.
RETRY_S = 0.5
#: Whether a message that fails so has arrived, nobody knows.
UNCONFIRMED = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)
JSON = "application/json"


class Publisher:
    """Events and dead letters, each on channels of their own, with confirms."""

    def __init__(self, events: ConfirmedPublishing, dead: DeadLetters) -> None:
        """Take what publishes them; make one with `open`."""
        self._events = events
        self._dead = dead

    @classmethod
    async def open(
        cls, connection: AbstractRobustConnection, *, max_message_bytes: int | None = None
    ) -> "Publisher":
        """Open the channels.

        Args:
            connection: to RabbitMQ.
            max_message_bytes: the largest message that RabbitMQ takes, where that is known.
        """
        events = await connection.channel(publisher_confirms=True, on_return_raises=True)
        return cls(
            ConfirmedPublishing(events, SizeLimit(max_message_bytes)),
            await DeadLetters.open(connection, max_message_bytes=max_message_bytes),
        )

    async def usage(self, envelope: Envelope, event: bytes) -> None:
        """Publish a `usage.recorded` until it is confirmed, also while accounting's queue is not there.

        Raises:
            MessageTooLargeError: RabbitMQ takes no message of this size.
        """
        routing_key = names.event_routing_key(names.USAGE_RECORDED, envelope.automation_id)

        def note(error: Exception) -> None:
            if isinstance(error, DeliveryError):
                log.warning(
                    "usage_unroutable", about=envelope, routing_key=routing_key, hint="run `keyway init`"
                )
            else:
                log.warning("publish_delayed", about=envelope, error=type(error).__name__)

        publish = partial(
            self._events.publish,
            event,
            persistent(names.USAGE_RECORDED, envelope),
            exchange=names.EVENTS_EXCHANGE,
            routing_key=routing_key,
            mandatory=True,
        )
        await retrying(publish, passes=UNCONFIRMED, pause_s=RETRY_S, longest_pause_s=RETRY_S, note=note)

    async def dead_letter(self, original: Delivery, envelope: Envelope, reason: str) -> None:
        """Put a copy of a message with its reason into the `dead` queue."""
        await self._dead.publish(original, reason, routing_key=envelope.automation_id, about=envelope)


def persistent(message_type: str, envelope: Envelope) -> Basic.Properties:
    """The properties of a message that follows from a request, as far as all such have them."""
    return Basic.Properties(
        content_type=JSON,
        delivery_mode=DeliveryMode.PERSISTENT,
        headers={} if envelope.trace is None else {**envelope.trace},
        message_type=message_type,
    )

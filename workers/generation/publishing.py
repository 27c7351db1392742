"""Publishing what a worker has to say, each message confirmed before anything follows from it."""

import asyncio
import time

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage, AbstractRobustConnection
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError

from contracts import names
from infra.dead_letters import dead_letter
from workers.generation.reading import Envelope
from workers.generation.result import REPEATED

log = structlog.get_logger()

#: How long a confirm may take before the message is published again, in seconds.
CONFIRM_TIMEOUT_S = 30.0
#: Seconds between attempts while the broker is away.
RETRY_S = 0.5
#: How long a reply is tried that the broker does not confirm, in seconds.
REPLY_TIMEOUT_S = 60.0
#: The same of a direct reply: who waits for one is gone with a connection that is away for longer.
DIRECT_REPLY_TIMEOUT_S = 5.0
#: Seconds between attempts to reply.
REPLY_RETRY_S = 1.5
#: Addresses of direct replies that are remembered as proved; the oldest are forgotten.
MOST_PROVED = 10_000
#: How long the loss of a connection may take to be noticed, in seconds.
NOTICED_S = 0.2
#: Whether a message that fails so has arrived, nobody knows.
UNCONFIRMED = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)
JSON = "application/json"


class Publisher:
    """Replies, events and dead letters, each on a channel of its own, with confirms.

    The first reply to a direct address is sent on a connection apart, alone: an address that somebody made
    up costs that connection, and nobody else's reply.
    """

    def __init__(
        self,
        replies: AbstractExchange,
        apart: AbstractExchange,
        events: AbstractExchange,
        dead: AbstractExchange,
    ) -> None:
        """Take the exchanges; make one with `open`."""
        self._replies = replies
        self._apart = apart
        self._events = events
        self._dead = dead
        self._proved: dict[str, None] = {}
        self._proving = asyncio.Lock()

    @classmethod
    async def open(cls, connection: AbstractRobustConnection, apart: AbstractRobustConnection) -> "Publisher":
        """Open the channels, that of first direct replies on the connection `apart`.

        A channel each, since aiormq tells returned messages apart by message id within a channel.
        """
        replies = await connection.channel(publisher_confirms=True, on_return_raises=True)
        first = await apart.channel(publisher_confirms=True)
        events = await connection.channel(publisher_confirms=True, on_return_raises=True)
        dead = await connection.channel(publisher_confirms=True, on_return_raises=True)
        return cls(
            replies.default_exchange,
            first.default_exchange,
            await events.get_exchange(names.EVENTS_EXCHANGE, ensure=False),
            await dead.get_exchange(names.DEAD_EXCHANGE, ensure=False),
        )

    async def reply(self, envelope: Envelope, result: bytes, end: bytes) -> None:
        """Send a result to who asked for it.

        One that nobody waits for any more, or that the broker does not confirm for a minute, is left to
        the journal.

        Args:
            envelope: of the request.
            result: up to its `replayed`.
            end: the rest of it, `FIRST` or `REPEATED`.
        """
        if envelope.reply_to is None:
            return
        direct = envelope.reply_to.startswith(names.DIRECT_REPLY_TO)
        send = self._send_directly if direct else self._send
        give_up_at = time.monotonic() + (DIRECT_REPLY_TIMEOUT_S if direct else REPLY_TIMEOUT_S)
        while True:
            message = Message(
                result + end,
                content_type=JSON,
                type=names.GENERATION_RESULT,
                message_id=envelope.request_id,
                correlation_id=envelope.correlation_id or envelope.request_id,
                delivery_mode=DeliveryMode.PERSISTENT,
            )
            try:
                await send(message, envelope.reply_to)
            except DeliveryError:
                log.info("reply_undeliverable", request_id=envelope.request_id, reply_to=envelope.reply_to)
            except UNCONFIRMED as error:
                log.warning("reply_delayed", request_id=envelope.request_id, error=type(error).__name__)
                if time.monotonic() < give_up_at:
                    end = REPEATED  # the first may have arrived all the same
                    await asyncio.sleep(REPLY_RETRY_S)
                    continue
                log.warning("reply_given_up", request_id=envelope.request_id)
            return

    async def _send(self, message: Message, queue_name: str) -> None:
        await _publish(self._replies, message, queue_name, mandatory=True)

    async def _send_directly(self, message: Message, address: str) -> None:
        """Send to a direct address; RabbitMQ takes one for "not routed" whenever a message is mandatory."""
        if address not in self._proved:
            async with self._proving:
                if address not in self._proved:
                    await self._prove(message, address)
                    return
        await _publish(self._replies, message, address, mandatory=False)

    async def _prove(self, message: Message, address: str) -> None:
        try:
            await _publish(self._apart, message, address, mandatory=False)
        except UNCONFIRMED:
            # The next one waits for a connection anew, rather than be lost with this one.
            await asyncio.sleep(NOTICED_S)
            raise
        self._proved[address] = None
        if len(self._proved) > MOST_PROVED:
            del self._proved[next(iter(self._proved))]

    async def usage(self, automation_id: str, event: bytes) -> None:
        """Publish a `usage.recorded`; without accounting's queue it is tried until that is there."""
        message = Message(
            event, content_type=JSON, type=names.USAGE_RECORDED, delivery_mode=DeliveryMode.PERSISTENT
        )
        routing_key = names.event_routing_key(names.USAGE_RECORDED, automation_id)
        while True:
            try:
                return await _confirmed(self._events, message, routing_key)
            except DeliveryError:
                log.warning("usage_unroutable", automation_id=automation_id, hint="run `keyway init`")
                await asyncio.sleep(RETRY_S)

    async def dead_letter(self, original: AbstractIncomingMessage, automation_id: str, reason: str) -> None:
        """Put a copy of a message with its reason into the `dead` queue."""
        await _confirmed(self._dead, dead_letter(original, reason), automation_id)


async def _confirmed(exchange: AbstractExchange, message: Message, routing_key: str) -> None:
    """Publish until the broker confirms.

    Raises:
        DeliveryError: no queue takes it.
    """
    while True:
        try:
            return await _publish(exchange, message, routing_key, mandatory=True)
        except DeliveryError:
            raise
        except UNCONFIRMED as error:
            log.warning("publish_delayed", error=type(error).__name__)
            await asyncio.sleep(RETRY_S)


async def _publish(
    exchange: AbstractExchange, message: Message, routing_key: str, *, mandatory: bool
) -> None:
    await exchange.publish(message, routing_key, mandatory=mandatory, timeout=CONFIRM_TIMEOUT_S)

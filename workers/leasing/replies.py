"""Sends leases and refusals to who asked, and knows whether a lease has arrived.

A lease may hold a key in the clear: it is never persistent, and expires with the lease.
"""

from enum import StrEnum

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractRobustConnection
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError

from contracts import names
from contracts.retrying import retrying
from infra import deliveries
from infra.confirmed_publishing import ConfirmedPublishing
from infra.dead_letters import DeadLetters
from infra.direct_addresses import UNANSWERED, DirectAddresses, is_direct
from workers.leasing.reading import Envelope

log = structlog.get_logger()

#: How long a reply is tried that the broker does not confirm, in seconds.
REPLY_TIMEOUT_S = 8.0
#: Seconds between attempts.
RETRY_S = 0.5
#: Whether a message that fails so has arrived, nobody knows.
UNCONFIRMED = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)


class Delivery(StrEnum):
    """What became of a reply."""

    DELIVERED = "delivered"
    #: There is no such queue, or nobody at that address.
    UNDELIVERED = "undelivered"
    UNKNOWN = "unknown"


class NotSentError(Exception):
    """The broker was not even asked to deliver it."""


class Replies:
    """Replies and dead letters of a leasing worker."""

    def __init__(self, replies: ConfirmedPublishing, dead: DeadLetters, addresses: DirectAddresses) -> None:
        """Take what publishes, and what knows direct addresses; make one with `open`."""
        self._replies = replies
        self._dead = dead
        self._addresses = addresses

    @classmethod
    async def open(cls, connection: AbstractRobustConnection, apart: AbstractRobustConnection) -> "Replies":
        """Open the channels, each with confirms."""
        replies = await connection.channel(publisher_confirms=True, on_return_raises=True)
        dead = await DeadLetters.open(connection)
        return cls(ConfirmedPublishing(replies), dead, DirectAddresses(apart))

    async def lease(self, envelope: Envelope, body: bytes, ttl_s: float) -> Delivery:
        """Send a lease.

        Args:
            envelope: of the request.
            body: the `key.lease.v1`.
            ttl_s: for how long it is worth anything, in seconds.
        """
        return await self._send(envelope, names.KEY_LEASE, body, ttl_s)

    async def refusal(self, envelope: Envelope, body: bytes) -> None:
        """Send a failed `generation.result.v1`, where the request says to whom."""
        if envelope.reply_to is not None:
            await self._send(envelope, names.GENERATION_RESULT, body)

    async def dead_letter(self, original: deliveries.Delivery, envelope: Envelope, reason: str) -> None:
        """Put a copy of a request with its reason into the `dead` queue."""
        routing_key = names.lease_queue(envelope.automation_id)
        await self._dead.publish(original, reason, routing_key=routing_key, about=envelope)

    async def _send(
        self, envelope: Envelope, message_type: str, body: bytes, ttl_s: float | None = None
    ) -> Delivery:
        address = envelope.reply_to or ""
        message = Message(
            body,
            content_type="application/json",
            type=message_type,
            message_id=envelope.request_id,
            correlation_id=envelope.correlation_id,
            delivery_mode=DeliveryMode.NOT_PERSISTENT,
            expiration=ttl_s,
        )
        is_sent = False

        async def send() -> Delivery:
            nonlocal is_sent
            direct = is_direct(address)
            if direct and not await self._is_there(address, envelope.automation_id):
                return Delivery.UNDELIVERED
            try:
                await self._replies.publish(
                    body, message.properties, exchange="", routing_key=address, mandatory=not direct
                )
            except DeliveryError:
                return Delivery.UNDELIVERED
            except UNCONFIRMED:
                is_sent = True
                raise
            return Delivery.DELIVERED

        def note(error: Exception) -> None:
            log.warning("reply_delayed", about=envelope, error=type(error).__name__)

        passes = (*UNCONFIRMED, NotSentError)
        try:
            return await retrying(
                send, passes=passes, pause_s=RETRY_S, give_up_after_s=REPLY_TIMEOUT_S, note=note
            )
        except passes:
            return Delivery.UNKNOWN if is_sent else Delivery.UNDELIVERED

    async def _is_there(self, address: str, automation_id: str) -> bool:
        """Whether somebody listens at a direct address.

        Raises:
            NotSentError: nobody knows.
        """
        try:
            return await self._addresses.is_there(address, automation_id)
        except UNANSWERED as error:
            raise NotSentError from error

"""Sends leases and refusals to who asked, and knows whether a lease has arrived.

A lease may hold a key in the clear: it is never persistent, and expires with the lease.
"""

import asyncio
import time
from enum import StrEnum

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractExchange, AbstractRobustConnection
from aiormq.exceptions import AMQPError, DeliveryError

from contracts import names
from infra import deliveries
from infra.dead_letters import dead_letter
from infra.direct_addresses import UNANSWERED, DirectAddresses, is_direct
from workers.leasing.reading import Envelope

log = structlog.get_logger()

#: How long a confirm may take, in seconds.
CONFIRM_TIMEOUT_S = 5.0
#: How long a reply is tried that the broker does not confirm, in seconds.
REPLY_TIMEOUT_S = 8.0
#: Seconds between attempts.
RETRY_S = 0.5
#: Whether a message that fails so has arrived, nobody knows.
UNCONFIRMED = (AMQPError, RuntimeError, ConnectionError, TimeoutError)


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

    def __init__(
        self,
        replies: AbstractExchange,
        dead: AbstractExchange,
        addresses: DirectAddresses,
    ) -> None:
        """Take the exchanges, and what knows direct addresses; make one with `open`."""
        self._replies = replies
        self._dead = dead
        self._addresses = addresses

    @classmethod
    async def open(cls, connection: AbstractRobustConnection, apart: AbstractRobustConnection) -> "Replies":
        """Open the channels, each with confirms."""
        replies = await connection.channel(publisher_confirms=True, on_return_raises=True)
        dead = await connection.channel(publisher_confirms=True, on_return_raises=True)
        dead_exchange = await dead.get_exchange(names.DEAD_EXCHANGE, ensure=False)
        return cls(replies.default_exchange, dead_exchange, DirectAddresses(apart))

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
        letter = dead_letter(original, reason)
        while True:
            try:
                return await self._publish_dead(letter, routing_key)
            except UNCONFIRMED as error:
                log.warning("publish_delayed", about=envelope, error=type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _publish_dead(self, letter: Message, routing_key: str) -> None:
        await self._dead.publish(letter, routing_key, timeout=CONFIRM_TIMEOUT_S)

    async def _send(
        self, envelope: Envelope, message_type: str, body: bytes, ttl_s: float | None = None
    ) -> Delivery:
        address = envelope.reply_to or ""
        send = self._send_directly if is_direct(address) else self._send_to_queue
        give_up_at = time.monotonic() + REPLY_TIMEOUT_S
        is_sent = False
        while True:
            message = Message(
                body,
                content_type="application/json",
                type=message_type,
                message_id=envelope.request_id,
                correlation_id=envelope.correlation_id,
                delivery_mode=DeliveryMode.NOT_PERSISTENT,
                expiration=ttl_s,
            )
            try:
                return await send(message, address)
            except NotSentError:
                error = "NotSent"
            except UNCONFIRMED as unconfirmed:
                error, is_sent = type(unconfirmed).__name__, True
            log.warning("reply_delayed", about=envelope, error=error)
            if time.monotonic() >= give_up_at:
                return Delivery.UNKNOWN if is_sent else Delivery.UNDELIVERED
            await asyncio.sleep(RETRY_S)

    async def _send_to_queue(self, message: Message, name: str) -> Delivery:
        try:
            await self._replies.publish(message, name, timeout=CONFIRM_TIMEOUT_S)
        except DeliveryError:
            return Delivery.UNDELIVERED
        return Delivery.DELIVERED

    async def _send_directly(self, message: Message, address: str) -> Delivery:
        """Send to a direct address, where there is somebody.

        Raises:
            NotSentError: nobody knows whether there is.
        """
        try:
            is_there = await self._addresses.is_there(address)
        except UNANSWERED as error:
            raise NotSentError from error
        if not is_there:
            return Delivery.UNDELIVERED
        await self._replies.publish(message, address, mandatory=False, timeout=CONFIRM_TIMEOUT_S)
        return Delivery.DELIVERED

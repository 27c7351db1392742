"""Consuming where each microsecond counts: straight from aiormq's channel, below aio-pika.

An acknowledgement goes out with whatever else is written in its turn of the event loop, and is not waited
for: where its connection is lost before, the delivery comes again (decision 0029).
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import cast

import pamqp.frame
from aio_pika.abc import HeadersType
from aiormq import Channel
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from contracts.consumer_channels import Receive, Take
from infra.outgoing_frames import OutgoingFrames


class ConsumedDelivery:
    """One delivery of a queue."""

    __slots__ = (
        *("_channel", "_outgoing", "_tag"),
        *("body", "exchange", "headers", "properties", "redelivered", "routing_key"),
    )

    def __init__(self, message: DeliveredMessage, channel: Channel, outgoing: OutgoingFrames) -> None:
        """Take what aiormq delivered, on which channel, and what writes on that."""
        self._channel, self._outgoing = channel, outgoing
        self._tag = message.delivery_tag or 0
        self.body = message.body
        self.exchange = message.exchange
        self.routing_key = message.routing_key
        self.redelivered = message.redelivered
        self.properties: Basic.Properties = message.header.properties
        self.headers: HeadersType = self.properties.headers or {}

    @property
    def content_type(self) -> str | None:
        """Of the body."""
        return self.properties.content_type

    @property
    def type(self) -> str | None:
        """Which kind of message it is."""
        return self.properties.message_type or None

    @property
    def message_id(self) -> str | None:
        """Which message it is."""
        return self.properties.message_id or None

    @property
    def correlation_id(self) -> str | None:
        """What an answer names."""
        return self.properties.correlation_id or None

    @property
    def reply_to(self) -> str | None:
        """Where an answer goes."""
        return self.properties.reply_to or None

    @property
    def timestamp(self) -> datetime | None:
        """When it was published, to the second."""
        return self.properties.timestamp

    @property
    def expiration(self) -> float | None:
        """Its time to live, in seconds."""
        expiration = self.properties.expiration
        return None if expiration is None else float(expiration) / 1000

    async def ack(self) -> None:
        """Acknowledge it, without a wait.

        Raises:
            ChannelInvalidStateError: its channel is closed.
        """
        frame = pamqp.frame.marshal(Basic.Ack(delivery_tag=self._tag), self._channel.number)
        self._outgoing.send(self._channel, frame)

    async def nack(self, *, requeue: bool) -> None:
        """Hand it back.

        Raises:
            ChannelInvalidStateError: its channel is closed.
        """
        await self._channel.basic_nack(self._tag, requeue=requeue)

    async def reject(self, *, requeue: bool) -> None:
        """Refuse it.

        Raises:
            ChannelInvalidStateError: its channel is closed.
        """
        await self._channel.basic_reject(self._tag, requeue=requeue)


def deliveries(take: Callable[[ConsumedDelivery], Awaitable[None]]) -> Receive:
    """Have a queue's consumer give its deliveries.

    Args:
        take: is given each delivery, in a task that is cancelled when the channel closes.
    """

    def receive(channel: AbstractChannel) -> Take:
        own = cast("Channel", channel)
        outgoing = OutgoingFrames.of(own)

        async def on_message(message: DeliveredMessage) -> None:
            await take(ConsumedDelivery(message, own, outgoing))

        return on_message

    return receive

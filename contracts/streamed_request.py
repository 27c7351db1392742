"""A request whose answer comes in pieces, on a channel of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts.connection import ChannelLostError
from contracts.errors import PublishError
from contracts.inbox import Inbox
from contracts.reply_channel import RefusedPublishError

if TYPE_CHECKING:
    import asyncio

    from aio_pika import Message
    from aiormq.abc import DeliveredMessage

    from contracts.own_channels import OwnChannels
    from contracts.reply_channel import Destination, ReplyChannel


class StreamedRequest:
    """Publishes the request, again under the same id when its channel is lost, and hands over what comes.

    Attributes:
        asked: how often it was published on a new channel.
    """

    def __init__(self, message: Message, destination: Destination, channels: OwnChannels) -> None:
        self.asked = 0
        self._message = message
        self._destination = destination
        self._channels = channels
        self._channel: ReplyChannel | None = None
        self._inbox = Inbox(self._on_overflow)

    async def publish(self) -> None:
        """Publish until the broker confirms.

        Raises:
            PublishError: the broker refuses the request.
            ClientClosedError: the client is closed.
        """
        while True:
            channel = self._channel = await self._channels.acquire()
            self._inbox = Inbox(self._on_overflow)
            self.asked += 1
            channel.listen(self._request_id, self._inbox.put)
            try:
                return await channel.publish(self._message, self._destination)
            except ChannelLostError:
                self.abandon()
            except RefusedPublishError as error:
                raise PublishError(str(error)) from None

    async def next(self) -> DeliveredMessage:
        """The next message.

        Raises:
            SlowConsumerError: too many have come that were not taken.
            PublishError: asked again, the broker refuses the request.
            ClientClosedError: the client is closed.
        """
        while True:
            try:
                return await self._inbox.get()
            except ChannelLostError:
                self.abandon()
                await self.publish()

    def end(self) -> None:
        """The answer is complete: the channel may serve another stream."""
        if channel := self._leave():
            self._channels.release(channel)

    def abandon(self) -> asyncio.Task[None] | None:
        """Nobody takes the answer any more: close the channel, if there is one.

        Returns:
            What ends when the channel is closed.
        """
        if channel := self._leave():
            return self._channels.discard(channel)
        return None

    def _leave(self) -> ReplyChannel | None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.forget(self._request_id)
        return channel

    def _on_overflow(self) -> None:
        self.abandon()

    @property
    def _request_id(self) -> str:
        return self._message.correlation_id or ""

"""Request and reply over one shared channel: any number under way, asked again when the channel is lost.

A request that is large has a channel to itself: RabbitMQ closes the channel over one that is too large.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from contracts.connection import ChannelLostError
from contracts.errors import PublishError
from contracts.message_size import SHARED_BYTES, MessageTooLargeError
from contracts.reply_channel import RefusedPublishError, ReplyChannel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aio_pika import Message
    from aiormq.abc import DeliveredMessage

    from contracts.connection import BrokerConnection
    from contracts.own_channels import OwnChannels
    from contracts.reply_channel import Destination

T = TypeVar("T")


class RequestReply:
    """Asks and tells over one channel, which is opened again whenever it is lost."""

    def __init__(self, connection: BrokerConnection, own_channels: OwnChannels) -> None:
        self._connection = connection
        self._own_channels = own_channels
        self._channel: ReplyChannel | None = None
        self._opening = asyncio.Lock()

    async def ask(self, message: Message, destination: Destination) -> DeliveredMessage:
        """Publish a request and wait for its answer.

        Raises:
            PublishError: the broker refuses the message.
            ClientClosedError: the client is closed.
        """
        return await self._until_done(len(message.body), lambda channel: channel.ask(message, destination))

    async def tell(self, message: Message, destination: Destination) -> None:
        """Publish a message that nobody answers on this channel, until the broker confirms.

        Raises:
            PublishError: the broker refuses the message.
            ClientClosedError: the client is closed.
        """
        await self._until_done(len(message.body), lambda channel: channel.publish(message, destination))

    async def _until_done(self, size: int, operation: Callable[[ReplyChannel], Awaitable[T]]) -> T:
        if size > SHARED_BYTES:
            return await self._alone(size, operation)
        while True:
            channel = await self._shared()
            try:
                return await operation(channel)
            except ChannelLostError:
                continue
            except RefusedPublishError:
                # Whose message it was shows when each that was under way is repeated alone.
                return await self._alone(size, operation)

    async def _alone(self, size: int, operation: Callable[[ReplyChannel], Awaitable[T]]) -> T:
        while True:
            self._check(size)
            channel = await self._own_channels.acquire()
            try:
                done = await operation(channel)
            except BaseException as error:
                self._own_channels.discard(channel)
                if isinstance(error, RefusedPublishError):
                    self._connection.size_limit.learn(error)
                    self._check(size)
                    raise PublishError(str(error)) from None
                if not isinstance(error, ChannelLostError):
                    raise
            else:
                self._own_channels.release(channel)
                return done

    def _check(self, size: int) -> None:
        """Refuse a message that RabbitMQ is known not to take.

        Raises:
            PublishError: it is too large.
        """
        try:
            self._connection.size_limit.check(size)
        except MessageTooLargeError as error:
            raise PublishError(f"the message is too large: {error}") from None

    async def _shared(self) -> ReplyChannel:
        async with self._opening:
            if self._channel is None or self._channel.is_lost:
                self._channel = await ReplyChannel.open(self._connection)
            return self._channel

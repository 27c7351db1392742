"""Request and reply over one shared channel: any number under way, asked again when the channel is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from contracts.connection import ChannelLostError
from contracts.errors import PublishError
from contracts.reply_channel import RefusedPublishError, ReplyChannel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aio_pika import Message
    from aiormq.abc import DeliveredMessage

    from contracts.connection import BrokerConnection
    from contracts.reply_channel import Destination

T = TypeVar("T")


class RequestReply:
    """Asks and tells over one channel, which is opened again whenever it is lost."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self._channel: ReplyChannel | None = None
        self._opening = asyncio.Lock()

    async def ask(self, message: Message, destination: Destination) -> DeliveredMessage:
        """Publish a request and wait for its answer.

        Raises:
            PublishError: the broker refuses the message.
            ClientClosedError: the client is closed.
        """
        return await self._until_done(lambda channel: channel.ask(message, destination))

    async def tell(self, message: Message, destination: Destination) -> None:
        """Publish a message that nobody answers on this channel, until the broker confirms.

        Raises:
            PublishError: the broker refuses the message.
            ClientClosedError: the client is closed.
        """
        await self._until_done(lambda channel: channel.publish(message, destination))

    async def _until_done(self, operation: Callable[[ReplyChannel], Awaitable[T]]) -> T:
        while True:
            channel = await self._shared()
            try:
                return await operation(channel)
            except ChannelLostError:
                continue
            except RefusedPublishError:
                # Whose message it was shows when each that was under way is repeated alone.
                return await self._alone(operation)

    async def _alone(self, operation: Callable[[ReplyChannel], Awaitable[T]]) -> T:
        while True:
            channel = await ReplyChannel.open(self._connection)
            try:
                return await operation(channel)
            except ChannelLostError:
                continue
            except RefusedPublishError as error:
                raise PublishError(str(error)) from None
            finally:
                await channel.close()

    async def _shared(self) -> ReplyChannel:
        async with self._opening:
            if self._channel is None or self._channel.is_lost:
                self._channel = await ReplyChannel.open(self._connection)
            return self._channel

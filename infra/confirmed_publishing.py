"""Publishing with confirms where each microsecond counts, and where one publisher's message harms no other's.

Messages share a channel. RabbitMQ closes the channel over a message that is too large for it, and all that is
under way on it has to be sent again; so a large one has a channel to itself. The first message to a queue has
one, too (`infra.proved_queues`).
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import cast

from aio_pika.abc import AbstractRobustChannel
from aiormq import Channel
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError
from pamqp.commands import Basic

from contracts.message_size import SHARED_BYTES, SizeLimit
from infra.background_tasks import BackgroundTasks
from infra.confirmed_channel import ConfirmedChannel
from infra.proved_queues import ProvedQueues
from infra.underlay_channel import underlay

#: How long a confirm may take, in seconds.
CONFIRM_TIMEOUT_S = 30.0
#: Large messages under way at once, and first ones; further ones wait.
MOST_APART = 64
#: Channels that are kept open for the next such messages.
MOST_IDLE = 4
#: The exchange that passes a message to the queue with the name of its routing key.
DEFAULT_EXCHANGE = ""


class ConfirmedPublishing:
    """Publishes on channels of its own, which nothing else publishes on."""

    def __init__(self, channel: AbstractRobustChannel, size: SizeLimit | None = None) -> None:
        """Make it.

        Args:
            channel: with confirms, and with returned messages that raise.
            size: how large a body may be; by default as RabbitMQ's refusals say.
        """
        self.size = size or SizeLimit()
        self._channel = channel
        self._shared: ConfirmedChannel | None = None
        self._proved = ProvedQueues()
        self._large = asyncio.Semaphore(MOST_APART)
        self._first = asyncio.Semaphore(MOST_APART)
        self._idle: list[ConfirmedChannel] = []
        self._closing = BackgroundTasks("publishing")
        self._ids = (f"{secrets.token_hex(8)}-{number}" for number in count())

    async def publish(
        self, body: bytes, properties: Basic.Properties, *, exchange: str, routing_key: str, mandatory: bool
    ) -> None:
        """Publish once, and wait for the broker's confirm.

        Args:
            body: of the message.
            properties: of the message; it is given an id where it has none.
            exchange: that takes it; `""` is the default exchange.
            routing_key: where to.
            mandatory: whether it is an error that no queue takes it.

        Raises:
            DeliveryError: the broker refuses it, or no queue takes it.
            MessageTooLargeError: RabbitMQ takes no message of this size.
            ValueError: the properties can't be sent.
            AMQPError: the channel is gone; nobody knows whether it has arrived.
            TimeoutError: no confirm came; nobody knows either.
        """
        size = len(body)
        self.size.check(size)
        properties.message_id = properties.message_id or next(self._ids)
        shared = self._shared
        if shared is None or shared.is_closed:
            shared = self._shared = ConfirmedChannel(await underlay(self._channel))
            self._proved = ProvedQueues()
        proved = self._proved
        publish = partial(
            self._publish,
            body=body,
            properties=properties,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=mandatory,
        )
        # Nobody blocks a channel at a direct address, which is all that is not mandatory here.
        if mandatory and exchange == DEFAULT_EXCHANGE and routing_key not in proved:
            await proved.wait(routing_key)
            if routing_key not in proved:
                with proved.first(routing_key):
                    async with self._first, self._apart() as channel:
                        await publish(channel)
                return
        if size > SHARED_BYTES:
            async with self._large, self._apart() as channel:
                await publish(channel)
        else:
            await publish(shared)

    async def _publish(
        self,
        channel: ConfirmedChannel,
        *,
        body: bytes,
        properties: Basic.Properties,
        exchange: str,
        routing_key: str,
        mandatory: bool,
    ) -> None:
        try:
            await channel.publish(
                body,
                properties,
                exchange=exchange,
                routing_key=routing_key,
                mandatory=mandatory,
                timeout_s=CONFIRM_TIMEOUT_S,
            )
        except ChannelInvalidStateError:
            # Of those that were under way it was the one that is larger than the refusal says.
            self.size.learn(channel.refusal)
            self.size.check(len(body))
            raise

    @asynccontextmanager
    async def _apart(self) -> AsyncIterator[ConfirmedChannel]:
        """A channel for one message; it is closed where no answer comes: the message may be half written."""
        channel = await self._unused()
        try:
            yield channel
        except DeliveryError:
            self._put_back(channel)
            raise
        except BaseException:
            self._closing.start("close", _close(channel))
            raise
        self._put_back(channel)

    def _put_back(self, channel: ConfirmedChannel) -> None:
        if len(self._idle) < MOST_IDLE:
            self._idle.append(channel)
        else:
            self._closing.start("close", _close(channel))

    async def _unused(self) -> ConfirmedChannel:
        while self._idle:
            if not (channel := self._idle.pop()).is_closed:
                return channel
        connection = (await underlay(self._channel)).connection
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                opened = await connection.channel(publisher_confirms=True, on_return_raises=True)
        except RuntimeError as error:
            raise ChannelInvalidStateError("the connection is closed") from error
        return ConfirmedChannel(cast("Channel", opened), one_by_one=True)


async def _close(channel: ConfirmedChannel) -> None:
    try:
        await channel.close()
    except (AMQPError, ChannelInvalidStateError, ConnectionError, RuntimeError, TimeoutError):
        return  # it went with its connection

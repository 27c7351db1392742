"""Results in a durable queue: kept by the broker until the automation collects them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from contracts.connection import BROKER_TIMEOUT_S, RETRY_S, ChannelLostError, close, on_channel
from contracts.consumer_channels import ConsumerChannels
from contracts.errors import InvalidReplyError, PublishError
from contracts.queue_consumer import QueueConsumer, may_pass, said_of
from contracts.request_message import read_result
from contracts.retrying import retrying

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiormq.abc import AbstractChannel, DeliveredMessage
    from pamqp.common import FieldValue

    from contracts.connection import BrokerConnection
    from contracts.consumer_channels import Take
    from contracts.messages import GenerationResult

QUORUM: dict[str, FieldValue] = {"x-queue-type": "quorum"}
#: The longest pause between two tries to declare a queue, in seconds.
LONGEST_RETRY_S = 5.0
#: Results that the broker hands over ahead of their acknowledgement.
PREFETCH = 32


async def declare_reply_queue(connection: BrokerConnection, queue: str) -> None:
    """Make a durable reply queue if it is not there.

    Raises:
        PublishError: it is there with other settings, or the user may not.
        ClientClosedError: the client is closed.
    """
    await retrying(
        partial(_declare_briefly, connection, queue),
        passes=(ChannelLostError,),
        pause_s=RETRY_S,
        longest_pause_s=LONGEST_RETRY_S,
    )


async def collect(
    connection: BrokerConnection, queue: str, idle_s: float | None
) -> AsyncGenerator[GenerationResult, None]:
    """Take results from a durable reply queue; each is acknowledged when the next is asked for.

    Args:
        connection: where the queue is.
        queue: its full name; it is made if it is not there.
        idle_s: end after so many seconds without a result; None: never.

    Raises:
        InvalidReplyError: a message is not a result; it is acknowledged all the same.
        PublishError: the queue is there with other settings, or the user may not read it.
        ClientClosedError: the client is closed.
    """
    consumer = Consumer(connection, queue)
    try:
        while True:
            try:
                async with asyncio.timeout(idle_s):
                    message = await consumer.next()
            except TimeoutError:
                return
            try:
                result = read_result(message)
            except InvalidReplyError:
                await consumer.acknowledge(message)
                raise
            yield result
            await consumer.acknowledge(message)
    finally:
        await consumer.close()


class Consumer:
    """Consumes a durable reply queue; what a lost channel had handed over comes again by the next one."""

    def __init__(self, connection: BrokerConnection, queue: str) -> None:
        self._channels = ConsumerChannels(connection.channel)
        self._consumer = QueueConsumer(
            queue,
            channels=self._channels,
            declare=partial(_declare_briefly, connection, queue),
            receive=self._receive,
            prefetch=PREFETCH,
            passes=_may_pass,
        )
        self._channel: AbstractChannel | None = None
        self._messages: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
        self._running = asyncio.create_task(self._consumer.run())

    async def next(self) -> DeliveredMessage:
        """The next message.

        Raises:
            PublishError: the queue is there with other settings, or the user may not read it.
            ClientClosedError: the client is closed.
        """
        while True:
            coming = asyncio.ensure_future(self._messages.get())
            try:
                await asyncio.wait([coming, self._running], return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    await self._ended()
                message = await coming
            finally:
                coming.cancel()
            if message.channel is self._channel and not message.channel.is_closed:
                return message

    async def _ended(self) -> None:
        try:
            await self._running
        except ChannelLostError as error:
            queue = self._consumer.queue
            raise PublishError(f"this user may not read the queue {queue}: {said_of(error)}") from None

    async def acknowledge(self, message: DeliveredMessage) -> None:
        """Take a message off the queue; if its channel is lost, it comes again."""
        with suppress(ChannelLostError):
            await on_channel(message.channel.basic_ack(message.delivery_tag or 0))

    async def close(self) -> None:
        """Give back what is not acknowledged."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        for channel in {*self._channels, *filter(None, [self._channel])}:
            await close(channel)

    def _receive(self, channel: AbstractChannel) -> Take:
        self._channel = channel
        return self._messages.put


def _may_pass(error: Exception) -> bool:
    """Whether to try again: a user who may not read the queue is told so."""
    return may_pass(error) and not isinstance(error.__cause__, ChannelAccessRefused)


async def _declare_briefly(connection: BrokerConnection, queue: str) -> None:
    async with connection.brief_channel() as channel:
        await on_channel(_declare(channel, queue))


async def _declare(channel: AbstractChannel, queue: str) -> None:
    try:
        await channel.queue_declare(queue, durable=True, arguments=QUORUM, timeout=BROKER_TIMEOUT_S)
    except ChannelPreconditionFailed:
        raise PublishError(
            f"queue {queue} is there with other settings; expected a durable quorum queue"
        ) from None
    except ChannelAccessRefused:
        raise PublishError(f"this user may not have a queue {queue}") from None

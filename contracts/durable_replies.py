"""Results in a durable queue: kept by the broker until the automation collects them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from contracts.connection import BROKER_TIMEOUT_S, RETRY_S, ChannelLostError, close, on_channel
from contracts.errors import InvalidReplyError, PublishError
from contracts.request_message import read_result

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiormq.abc import AbstractChannel, DeliveredMessage
    from pamqp.common import FieldValue

    from contracts.connection import BrokerConnection
    from contracts.messages import GenerationResult

QUORUM: dict[str, FieldValue] = {"x-queue-type": "quorum"}
#: Results that the broker hands over ahead of their acknowledgement.
PREFETCH = 32


async def declare_reply_queue(connection: BrokerConnection, queue: str) -> None:
    """Make a durable reply queue if it is not there.

    Raises:
        PublishError: it is there with other settings, or the user may not.
        ClientClosedError: the client is closed.
    """
    while True:
        async with connection.brief_channel() as channel:
            with suppress(ChannelLostError):
                return await on_channel(_declare(channel, queue))
        await asyncio.sleep(RETRY_S)


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
    """Consumes a durable reply queue, again when the channel or the queue was lost."""

    def __init__(self, connection: BrokerConnection, queue: str) -> None:
        self._connection = connection
        self._queue = queue
        self._channel: AbstractChannel | None = None
        self._messages: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()

    async def next(self) -> DeliveredMessage:
        """The next message; what was handed over by a channel that is lost will come again, and is dropped.

        Raises:
            PublishError: the queue is there with other settings, or the user may not read it.
            ClientClosedError: the client is closed.
        """
        while True:
            if self._channel is None or self._channel.is_closed:
                await self._consume()
            if (message := await self._messages.get()) is not None:
                return message
            await self.close()

    async def acknowledge(self, message: DeliveredMessage) -> None:
        """Take a message off the queue; if its channel is lost, it comes again."""
        with suppress(ChannelLostError):
            await on_channel(message.channel.basic_ack(message.delivery_tag or 0))

    async def close(self) -> None:
        """Give back what is not acknowledged."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await close(channel)

    async def _consume(self) -> None:
        while True:
            channel = self._channel = await self._connection.channel()
            messages = self._messages = asyncio.Queue()
            channel.closing.add_done_callback(partial(_end, messages))
            channel.on_consumer_cancel_callbacks.add(partial(_end, messages))
            with suppress(ChannelLostError):
                await on_channel(_declare(channel, self._queue))
                await on_channel(channel.basic_qos(prefetch_count=PREFETCH, timeout=BROKER_TIMEOUT_S))
                await on_channel(channel.basic_consume(self._queue, messages.put, timeout=BROKER_TIMEOUT_S))
                return
            await self.close()
            await asyncio.sleep(RETRY_S)


def _end(messages: asyncio.Queue[DeliveredMessage | None], _: object) -> None:
    messages.put_nowait(None)


async def _declare(channel: AbstractChannel, queue: str) -> None:
    try:
        await channel.queue_declare(queue, durable=True, arguments=QUORUM, timeout=BROKER_TIMEOUT_S)
    except ChannelPreconditionFailed:
        raise PublishError(
            f"queue {queue} is there with other settings; expected a durable quorum queue"
        ) from None
    except ChannelAccessRefused:
        raise PublishError(f"this user may not have a queue {queue}") from None

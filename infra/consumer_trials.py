"""Finds out whether RabbitMQ starts a consumer of a queue, on a connection that nothing else uses.

RabbitMQ closes the channel of a consumer that it refuses. A quorum queue without a leader does more harm:
RabbitMQ 3.10 does not answer, handles nothing more on that channel, and closes the connection after 65 s.
So a queue is tried here before it is consumed on a connection and a channel that others use.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import cast

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage
from pamqp.commands import Basic
from yarl import URL

from contracts.connection import BROKER_TIMEOUT_S, ChannelLostError, close, on_channel, open_connection
from infra.background_tasks import BackgroundTasks

#: How the name of a connection for trials ends, in RabbitMQ's lists.
TRIALS = " trials"
#: How long RabbitMQ may take to start a consumer, in seconds.
ANSWER_TIMEOUT_S = 5.0
#: Queues that are tried at the same time.
MOST_TRIED = 64
#: AMQP's table `{"x-credit": {"credit": 0, "drain": false}}`, with the 64 bits of a credit for RabbitMQ.
NO_CREDIT = b"\0\0\0\x26\x08x-creditF\0\0\0\x18\x06creditl" + bytes(8) + b"\x05draint\0"
UNANSWERED = "RabbitMQ does not start a consumer of it; has the queue a leader?"


class _Shared:
    """A connection, how many trials are under way on it, and its channels that are free for the next ones."""

    __slots__ = ("connection", "free", "has_credit", "trials")

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection
        self.free: list[Channel] = []
        self.trials = 0
        # RabbitMQ 3 gives no message to a consumer without credit; 4 does not know `x-credit`.
        self.has_credit = str(connection.server_properties.get("version")).startswith("3.")


class ConsumerTrials:
    """Tries consumers on a connection apart, which is there as long as something is tried.

    Args:
        url: AMQP address with a user and a password.
    """

    def __init__(self, url: URL) -> None:
        self._url = url.update_query(name=f"{url.query.get('name', 'keyway')}{TRIALS}")
        self._current: _Shared | None = None
        self._opening = asyncio.Lock()
        self._places = asyncio.Semaphore(MOST_TRIED)
        self._closing = BackgroundTasks("trials")

    async def consume(self, queue: str, *, is_doubtful: bool) -> None:
        """Start a consumer and stop it at once.

        It takes no message, since that would count as a delivery. RabbitMQ 4 gives it one that waits, so a
        queue where some wait is tried there only if it is doubtful; then that one goes back, and counts once.

        Args:
            queue: its name.
            is_doubtful: whether RabbitMQ did not start the last consumer of it.

        Raises:
            ChannelLostError: RabbitMQ refuses, does not answer, or is away; the cause says which.
        """
        async with self._places, self._connected() as shared:
            channel = shared.free.pop() if shared.free else await _open(shared.connection)
            try:
                if shared.has_credit or is_doubtful or not await _is_waited_in(channel, queue):
                    await _start_and_stop(channel, queue)
            except ChannelLostError as error:
                if not isinstance(error.__cause__, TimeoutError):
                    raise
                # RabbitMQ will close the connection for it.
                self._leave(shared)
                raise ChannelLostError from TimeoutError(UNANSWERED)
            shared.free.append(channel)

    async def close(self) -> None:
        """Wait until the connections are closed; nothing is tried any more."""
        await self._closing.drain()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Shared]:
        async with self._opening:
            shared = self._current
            if shared is None or shared.connection.is_closed:
                shared = self._current = _Shared(await on_channel(open_connection(self._url)))
        shared.trials += 1
        try:
            yield shared
        finally:
            shared.trials -= 1
            if not shared.trials:
                self._leave(shared)
                self._closing.start("close", close(shared.connection))

    def _leave(self, shared: _Shared) -> None:
        """Begin no further trial on a connection."""
        if self._current is shared:
            self._current = None


class _ConsumeNothing(Basic.Consume):
    """Starts a consumer without credit (AMQP 1.0's word): a quorum queue gives it nothing."""

    def marshal(self) -> bytes:
        """The frame's content, whose last part is the length of its empty table of arguments."""
        return bytes(super().marshal()[: -len(bytes(4))]) + NO_CREDIT


async def _open(connection: AbstractConnection) -> Channel:
    opened = connection.channel(publisher_confirms=False, timeout=BROKER_TIMEOUT_S)
    channel = cast("Channel", await on_channel(opened))
    await on_channel(channel.basic_qos(prefetch_count=1, timeout=BROKER_TIMEOUT_S))
    return channel


async def _is_waited_in(channel: Channel, queue: str) -> bool:
    """Whether messages wait in a queue. One without a leader may answer that none do."""
    declared = await on_channel(channel.queue_declare(queue, passive=True, timeout=ANSWER_TIMEOUT_S))
    return bool(declared.message_count)


async def _start_and_stop(channel: Channel, queue: str) -> None:
    tag, stopped = secrets.token_hex(8), asyncio.Event()
    channel.consumers[tag] = partial(_give_back, stopped)
    try:
        await on_channel(
            channel.rpc(_ConsumeNothing(queue=queue, consumer_tag=tag), timeout=ANSWER_TIMEOUT_S)
        )
        await on_channel(channel.basic_cancel(tag, timeout=ANSWER_TIMEOUT_S))
    finally:
        stopped.set()


async def _give_back(stopped: asyncio.Event, message: DeliveredMessage) -> None:
    # Before, the same consumer would be given it again.
    await stopped.wait()
    with suppress(ChannelLostError):
        await on_channel(message.channel.basic_reject(message.delivery_tag or 0, requeue=True))

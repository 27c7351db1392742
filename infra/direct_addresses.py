"""Addresses of RabbitMQ's direct reply-to: whether somebody is there, asked where it does no harm.

An address is opaque, and anybody may make one up. RabbitMQ 3.10 closes the connection of who names one that
it can't decode: so a new one is named first on a connection apart (decision 0012).
"""

import asyncio

from aio_pika.abc import AbstractRobustChannel, AbstractRobustConnection
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, ChannelNotFoundEntity
from pamqp.commands import Queue

from contracts import names
from infra.underlay_channel import underlay

#: Addresses that are remembered as none that is made up; the oldest are forgotten.
MOST_PROVED = 10_000
#: How long RabbitMQ may take to answer, in seconds.
LOOK_TIMEOUT_S = 5.0
#: How long the loss of a connection may take to be noticed, in seconds.
NOTICED_S = 0.2
#: What a look may fail of.
UNANSWERED = (AMQPError, ChannelInvalidStateError, ConnectionError, RuntimeError, TimeoutError)


def is_direct(address: str) -> bool:
    """Whether a reply goes to a direct address, not to a queue."""
    return address.startswith(names.DIRECT_REPLY_TO)


class DirectAddresses:
    """The direct addresses that a process replies to."""

    def __init__(self, apart: AbstractRobustConnection) -> None:
        """Take the connection that a made-up address may cost."""
        self._apart = apart
        self._channel: AbstractRobustChannel | None = None
        self._looking = asyncio.Lock()
        self._proved: dict[str, None] = {}

    def is_proved(self, address: str) -> bool:
        """Whether RabbitMQ has decoded the address before, so that it may be named on any connection."""
        return address in self._proved

    async def is_there(self, address: str) -> bool:
        """Ask whether somebody listens, by declaring it passively (RabbitMQ's guide "Direct Reply-to").

        Raises:
            TimeoutError: no answer came.
            AMQPError: RabbitMQ is away, or closed the connection over this address.
        """
        async with self._looking:
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    found = await self._declared(address)
            except UNANSWERED:
                await self._forget_channel()
                # The next look waits for a connection anew, rather than fail with this one.
                await asyncio.sleep(NOTICED_S)
                raise
        self._proved[address] = None
        if len(self._proved) > MOST_PROVED:
            del self._proved[next(iter(self._proved))]
        return found

    async def _declared(self, address: str) -> bool:
        if self._channel is None:
            await self._apart.ready()
            self._channel = await self._apart.channel(publisher_confirms=False)
        channel = await underlay(self._channel)
        try:
            await channel.rpc(_DeclareAddress(queue=address, passive=True))
        except ChannelNotFoundEntity:
            await self._forget_channel()
            return False
        return True

    async def _forget_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            try:
                await channel.close()
            except UNANSWERED:
                return  # it went with its connection


class _DeclareAddress(Queue.Declare):
    """Names a direct address, whose characters pamqp expects in no queue's name."""

    def validate(self) -> None:
        """Leave it to the broker."""

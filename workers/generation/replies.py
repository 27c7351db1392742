"""Answers on their way to who asked: results, and the chunks of streams, each confirmed by the broker."""

import asyncio
import time
from typing import cast

import aiormq
import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractExchange, AbstractRobustChannel, AbstractRobustConnection
from aiormq.exceptions import ChannelNotFoundEntity, DeliveryError
from pamqp.commands import Basic, Queue

from contracts import names
from workers.generation.publishing import JSON, UNCONFIRMED, publish, trace_headers
from workers.generation.reading import Envelope
from workers.generation.result import REPEATED

log = structlog.get_logger()

#: How long a reply is tried that the broker does not confirm, in seconds.
REPLY_TIMEOUT_S = 60.0
#: The same of a direct reply: who waits for one is gone with a connection that is away for longer.
DIRECT_REPLY_TIMEOUT_S = 5.0
#: Seconds between attempts to reply.
REPLY_RETRY_S = 1.5
#: The same where the reply queue is full, until it is read.
FULL_RETRY_S = 0.2
#: Addresses of direct replies that are remembered as proved; the oldest are forgotten.
MOST_PROVED = 10_000
#: How long the loss of a connection may take to be noticed, in seconds.
NOTICED_S = 0.2
#: How long RabbitMQ may take to say whether an address is there, in seconds.
LOOK_TIMEOUT_S = 5.0


class NobodyWaitsError(Exception):
    """Who asked is gone: there is no such reply queue, or no such address, any more."""


class Replies:
    """Sends answers; a reply queue that is full (`reject-publish`) is waited for.

    The first reply to a direct address is sent on a connection apart, alone: an address that somebody made
    up costs that connection, and nobody else's reply.
    """

    def __init__(
        self, replies: AbstractExchange, apart: AbstractExchange, looks: AbstractRobustChannel
    ) -> None:
        """Take the exchanges, and a channel to look for addresses on; make one with `open`."""
        self._replies = replies
        self._apart = apart
        self._looks = looks
        self._looking = asyncio.Lock()
        self._proved: dict[str, None] = {}
        self._proving = asyncio.Lock()

    @classmethod
    async def open(cls, connection: AbstractRobustConnection, apart: AbstractRobustConnection) -> "Replies":
        """Open the channels; on `apart` those that an address which somebody made up may cost."""
        replies = await connection.channel(publisher_confirms=True, on_return_raises=True)
        first = await apart.channel(publisher_confirms=True)
        looks = await apart.channel(publisher_confirms=False)
        return cls(replies.default_exchange, first.default_exchange, looks)

    async def result(self, envelope: Envelope, result: bytes, end: bytes) -> None:
        """Send a result to who asked for it.

        One that nobody waits for any more, or that the broker does not confirm for a minute, is left to
        the journal.

        Args:
            envelope: of the request.
            result: up to its `replayed`.
            end: the rest of it, `FIRST` or `REPEATED`; after a doubtful try it is `REPEATED`.
        """
        try:
            # The first may have arrived all the same.
            await self._send(envelope, names.GENERATION_RESULT, result + end, again=result + REPEATED)
        except NobodyWaitsError:
            log.info("reply_undeliverable", request_id=envelope.request_id, reply_to=envelope.reply_to)

    async def chunk(self, envelope: Envelope, chunk: bytes) -> None:
        """Send a chunk to who asked for it.

        Raises:
            NobodyWaitsError: there is no such queue any more, or the broker does not confirm it.
        """
        await self._send(envelope, names.GENERATION_CHUNK, chunk, again=chunk)

    async def is_waited_for(self, envelope: Envelope) -> bool:
        """Whether a direct address that was sent to is there still; any other is found out by sending to it.

        RabbitMQ says so of an address that is declared (its guide "Direct Reply-to").
        """
        if envelope.reply_to not in self._proved:
            return True
        async with self._looking:
            channel = cast("aiormq.Channel", await self._looks.get_underlay_channel())
            address = _DeclareAddress(queue=envelope.reply_to, passive=True)
            try:
                await channel.rpc(address, timeout=LOOK_TIMEOUT_S)
            except ChannelNotFoundEntity:
                return False
            except UNCONFIRMED as error:
                log.info("address_not_looked_for", error=type(error).__name__)
        return True

    async def _send(self, envelope: Envelope, message_type: str, body: bytes, *, again: bytes) -> None:
        """Send until it is confirmed, for a while.

        Args:
            envelope: of the request.
            message_type: of the message.
            body: what is sent first.
            again: what is sent when it is not known whether that has arrived.

        Raises:
            NobodyWaitsError: it can't be delivered.
        """
        address = envelope.reply_to
        if address is None:
            return
        is_direct = _is_direct(address)
        give_up_at = time.monotonic() + (DIRECT_REPLY_TIMEOUT_S if is_direct else REPLY_TIMEOUT_S)
        while True:
            message = Message(
                body,
                content_type=JSON,
                type=message_type,
                message_id=envelope.request_id,
                correlation_id=envelope.correlation_id or envelope.request_id,
                delivery_mode=DeliveryMode.PERSISTENT,
                headers=trace_headers(envelope),
            )
            try:
                if is_direct:
                    await self._send_directly(message, address)
                else:
                    await publish(self._replies, message, address, mandatory=True)
            except UNCONFIRMED as error:
                is_full = isinstance(error, DeliveryError) and isinstance(error.frame, Basic.Nack)
                if isinstance(error, DeliveryError) and not is_full:
                    raise NobodyWaitsError from None
                log.info("reply_delayed", request_id=envelope.request_id, error=type(error).__name__)
                if time.monotonic() >= give_up_at:
                    log.warning("reply_given_up", request_id=envelope.request_id)
                    raise NobodyWaitsError from None
                body = body if is_full else again
                await asyncio.sleep(FULL_RETRY_S if is_full else REPLY_RETRY_S)
            else:
                return

    async def _send_directly(self, message: Message, address: str) -> None:
        """Send to a direct address; RabbitMQ takes one for "not routed" whenever a message is mandatory."""
        if address not in self._proved:
            async with self._proving:
                if address not in self._proved:
                    await self._prove(message, address)
                    return
        await publish(self._replies, message, address, mandatory=False)

    async def _prove(self, message: Message, address: str) -> None:
        try:
            await publish(self._apart, message, address, mandatory=False)
        except UNCONFIRMED:
            # The next one waits for a connection anew, rather than be lost with this one.
            await asyncio.sleep(NOTICED_S)
            raise
        self._proved[address] = None
        if len(self._proved) > MOST_PROVED:
            del self._proved[next(iter(self._proved))]


def _is_direct(address: str) -> bool:
    return address.startswith(names.DIRECT_REPLY_TO)


class _DeclareAddress(Queue.Declare):
    """Names a direct address, whose characters pamqp takes for none of a queue's."""

    def validate(self) -> None:
        """Leave it to the broker."""

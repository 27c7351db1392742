"""Answers on their way to who asked: results, and the chunks of streams, each confirmed by the broker."""

import structlog
from aio_pika.abc import AbstractRobustConnection
from aiormq.exceptions import DeliveryError
from pamqp.commands import Basic

from contracts import names
from contracts.message_size import SizeLimit
from contracts.retrying import retrying
from infra.confirmed_publishing import ConfirmedPublishing
from infra.direct_addresses import UNANSWERED, DirectAddresses, is_direct
from workers.generation.publishing import UNCONFIRMED, persistent
from workers.generation.reading import Envelope
from workers.generation.result import REPEATED

log = structlog.get_logger()

#: How long a reply is tried that the broker does not confirm, in seconds.
REPLY_TIMEOUT_S = 60.0
#: The same of a direct reply: who waits for one is gone with a connection that is away for longer.
DIRECT_REPLY_TIMEOUT_S = 5.0
#: The first and the longest pause between attempts to reply, in seconds.
RETRY_S = 0.2
LONGEST_RETRY_S = 1.5
DEFAULT_EXCHANGE = ""


class NobodyWaitsError(Exception):
    """Who asked is gone: there is no such reply queue, or no such address, any more."""


class Replies:
    """Sends answers; a reply queue that is full (`reject-publish`) is waited for."""

    def __init__(self, replies: ConfirmedPublishing, addresses: DirectAddresses) -> None:
        """Take what publishes, and what knows direct addresses; make one with `open`."""
        self._replies = replies
        self._addresses = addresses

    @classmethod
    async def open(
        cls,
        connection: AbstractRobustConnection,
        apart: AbstractRobustConnection,
        *,
        max_message_bytes: int | None = None,
    ) -> "Replies":
        """Open a channel.

        Args:
            connection: to RabbitMQ.
            apart: another one, on which direct addresses are looked for.
            max_message_bytes: the largest message that RabbitMQ takes, where that is known.
        """
        replies = await connection.channel(publisher_confirms=True, on_return_raises=True)
        return cls(ConfirmedPublishing(replies, SizeLimit(max_message_bytes)), DirectAddresses(apart))

    def check_size(self, size: int) -> None:
        """Refuse an answer that RabbitMQ is known not to take.

        Args:
            size: of its body, in bytes.

        Raises:
            MessageTooLargeError: it is too large.
        """
        self._replies.size.check(size)

    async def result(self, envelope: Envelope, result: bytes, end: bytes) -> None:
        """Send a result to who asked for it.

        One that nobody waits for any more, or that the broker does not confirm for a minute, is left to
        the journal.

        Args:
            envelope: of the request.
            result: up to its `replayed`.
            end: the rest of it, `FIRST` or `REPEATED`; after a doubtful try it is `REPEATED`.

        Raises:
            MessageTooLargeError: RabbitMQ takes no message of this size.
        """
        try:
            # The first may have arrived all the same.
            await self._send(envelope, names.GENERATION_RESULT, result + end, again=result + REPEATED)
        except NobodyWaitsError:
            log.info("reply_undeliverable", about=envelope, reply_to=envelope.reply_to)

    async def chunk(self, envelope: Envelope, chunk: bytes) -> None:
        """Send a chunk to who asked for it.

        Raises:
            NobodyWaitsError: there is no such queue any more, or the broker does not confirm it.
            MessageTooLargeError: RabbitMQ takes no message of this size.
        """
        await self._send(envelope, names.GENERATION_CHUNK, chunk, again=chunk)

    async def is_waited_for(self, envelope: Envelope) -> bool:
        """Whether a direct address that was sent to is there still; of others, sending to them tells."""
        address = envelope.reply_to
        if address is None or not self._addresses.is_proved(address):
            return True
        try:
            return await self._addresses.is_there(address, envelope.automation_id)
        except UNANSWERED as error:
            log.info("address_not_looked_for", about=envelope, error=type(error).__name__)
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
            MessageTooLargeError: RabbitMQ takes no message of this size.
        """
        address = envelope.reply_to
        if address is None:
            return
        direct = is_direct(address)
        properties = persistent(message_type, envelope)
        properties.message_id = envelope.request_id
        properties.correlation_id = envelope.correlation_id or envelope.request_id
        content = body
        is_told = False

        async def publish() -> None:
            nonlocal content
            if direct and not self._addresses.is_proved(address):
                await self._prove(address, envelope.automation_id)
            try:
                # RabbitMQ takes a direct address for "not routed" whenever a message is mandatory.
                await self._replies.publish(
                    content, properties, exchange=DEFAULT_EXCHANGE, routing_key=address, mandatory=not direct
                )
            except DeliveryError as error:
                if not isinstance(error.frame, Basic.Nack):
                    raise NobodyWaitsError from None
                raise  # the queue is full
            except UNCONFIRMED:
                content = again
                raise

        def note(error: Exception) -> None:
            nonlocal is_told
            if not is_told:
                log.info("reply_delayed", about=envelope, error=type(error).__name__)
            is_told = True

        try:
            await retrying(
                publish,
                passes=UNCONFIRMED,
                pause_s=RETRY_S,
                longest_pause_s=LONGEST_RETRY_S,
                give_up_after_s=DIRECT_REPLY_TIMEOUT_S if direct else REPLY_TIMEOUT_S,
                note=note,
            )
        except UNCONFIRMED as error:
            log.warning("reply_given_up", about=envelope, error=type(error).__name__)
            raise NobodyWaitsError from None

    async def _prove(self, address: str, automation_id: str) -> None:
        """Name a new address where it does no harm.

        Raises:
            NobodyWaitsError: there is nobody.
            UNCONFIRMED: nobody knows.
        """
        if not await self._addresses.is_there(address, automation_id):
            raise NobodyWaitsError

"""Dead letters that say why: a copy of a message with its reason in a header, confirmed by queue `dead`."""

from datetime import UTC, datetime

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractRobustConnection, HeadersType
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from contracts import names
from contracts.message_size import MessageTooLargeError, SizeLimit
from contracts.retrying import retrying
from infra.confirmed_publishing import ConfirmedPublishing
from infra.deliveries import Delivery
from infra.telemetry import RequestIdentity

log = structlog.get_logger()

#: The first pause after a failed try, in seconds; each further one is twice as long.
RETRY_S = 0.5
#: What may pass; whether such a message has arrived, nobody knows.
MAY_PASS = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)
#: Headers by which RabbitMQ sends copies of a message elsewhere.
COPYING_HEADERS = frozenset({"CC", "BCC"})

#: The most bytes that a copy's properties take. RabbitMQ closes the connection of who sends a frame that is
#: larger than agreed (`frame_max`, 128 KiB by default), and a copy has more headers than what came.
MOST_PROPERTY_BYTES = 64 * 1024
#: Characters of a reason that are kept.
LONGEST_REASON = 1000


class DeadLetters:
    """Publishes dead letters."""

    def __init__(self, publishing: ConfirmedPublishing) -> None:
        """Take what publishes them; make one with `open`."""
        self._publishing = publishing

    @classmethod
    async def open(
        cls, connection: AbstractRobustConnection, *, max_message_bytes: int | None = None
    ) -> "DeadLetters":
        """Open a channel for them.

        Args:
            connection: to RabbitMQ.
            max_message_bytes: the largest message that RabbitMQ takes, where that is known.
        """
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        return cls(ConfirmedPublishing(channel, SizeLimit(max_message_bytes)))

    async def publish(
        self, original: Delivery, reason: str, *, routing_key: str, about: RequestIdentity | None = None
    ) -> None:
        """Publish a copy of a message until the queue `dead` has it.

        Args:
            original: the message; it is to be acknowledged afterwards.
            reason: why it can't be done.
            routing_key: whose it is.
            about: the request, for the log.
        """

        def note(error: Exception) -> None:
            log.warning("publish_delayed", about=about, error=type(error).__name__)

        async def publish() -> None:
            await self.publish_once(original, reason, routing_key=routing_key)

        await retrying(publish, passes=MAY_PASS, pause_s=RETRY_S, note=note)

    async def publish_once(self, original: Delivery, reason: str, *, routing_key: str) -> None:
        """Publish a copy of a message, without its body if RabbitMQ does not take one so large.

        Args:
            original: the message.
            reason: why it can't be done.
            routing_key: whose it is.

        Raises:
            AMQPError: it is not confirmed, or the queue `dead` is not there.
            ChannelInvalidStateError: the channel is gone.
            ConnectionError: RabbitMQ is away.
            TimeoutError: no confirm came.
        """
        try:
            await self._publish(dead_letter(original, reason), routing_key)
        except MessageTooLargeError as error:
            bare = dead_letter(original, f"{reason} (the body is left out: {error})", body=b"")
            await self._publish(bare, routing_key)

    async def _publish(self, letter: Message, routing_key: str) -> None:
        await self._publishing.publish(
            letter.body,
            letter.properties,
            exchange=names.DEAD_EXCHANGE,
            routing_key=routing_key,
            mandatory=True,
        )


def dead_letter(original: Delivery, reason: str, *, body: bytes | None = None) -> Message:
    """The copy to publish to the exchange `dead` before the original is acknowledged.

    Headers that can't be sent again are left out, and the copy's `x-keyway-left-out` says so.

    Args:
        original: the message.
        reason: why it is dead.
        body: what takes the place of the message's own; None: nothing does.
    """
    headers = {name: value for name, value in (original.headers or {}).items() if name not in COPYING_HEADERS}
    reason = reason.encode(errors="backslashreplace").decode()
    why: HeadersType = {
        names.REASON_HEADER: reason if len(reason) <= LONGEST_REASON else f"{reason[: LONGEST_REASON - 1]}…",
        names.DIED_AT_HEADER: datetime.now(UTC),
    }
    return sendable(
        Message(
            original.body if body is None else body,
            headers={**headers, **why},
            content_type=original.content_type,
            type=original.type,
            message_id=original.message_id,
            correlation_id=original.correlation_id,
            reply_to=original.reply_to,
            timestamp=original.timestamp,
            delivery_mode=DeliveryMode.PERSISTENT,
        ),
        otherwise=why,
    )


def sendable(message: Message, *, otherwise: HeadersType) -> Message:
    """A message as it is, or with other headers where its own are too large or can't be encoded.

    Args:
        message: to be published; it is changed.
        otherwise: the headers that it has then, with `x-keyway-left-out`.
    """
    try:
        size = len(message.properties.marshal())
        flaw = f"the properties would have {size} bytes" if size > MOST_PROPERTY_BYTES else None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        flaw = f"they can't be encoded: {type(error).__name__}"
    if flaw is not None:
        message.headers = {**otherwise, names.LEFT_OUT_HEADER: f"the headers were left out: {flaw}"}
    return message

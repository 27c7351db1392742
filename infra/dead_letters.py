"""Dead letters that say why: a copy of a message with its reason in a header."""

from datetime import UTC, datetime

from aio_pika import DeliveryMode, Message
from aio_pika.abc import HeadersType

from contracts import names
from infra.deliveries import Delivery

#: The most bytes that a copy's properties take. RabbitMQ closes the connection of who sends a frame that is
#: larger than agreed (`frame_max`, 128 KiB by default), and a copy has more headers than what came.
MOST_PROPERTY_BYTES = 64 * 1024
#: Characters of a reason that are kept.
LONGEST_REASON = 1000


def dead_letter(original: Delivery, reason: str) -> Message:
    """The copy to publish to the exchange `dead` before the original is acknowledged.

    Headers that can't be sent again are left out, and the copy's `x-keyway-left-out` says so.
    """
    why: HeadersType = {
        names.REASON_HEADER: reason if len(reason) <= LONGEST_REASON else f"{reason[: LONGEST_REASON - 1]}…",
        names.DIED_AT_HEADER: datetime.now(UTC),
    }
    return sendable(
        Message(
            original.body,
            headers={**(original.headers or {}), **why},
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

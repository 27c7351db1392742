"""Dead letters that say why: a copy of a message with its reason in a header."""

from datetime import UTC, datetime

from aio_pika import DeliveryMode, Message
from aio_pika.abc import HeadersType

from contracts import names
from infra.deliveries import Delivery


def dead_letter(original: Delivery, reason: str) -> Message:
    """The copy to publish to the exchange `dead` before the original is acknowledged."""
    headers: HeadersType = {
        **(original.headers or {}),
        names.REASON_HEADER: reason,
        names.DIED_AT_HEADER: datetime.now(UTC),
    }
    return Message(
        original.body,
        headers=headers,
        content_type=original.content_type,
        type=original.type,
        message_id=original.message_id,
        correlation_id=original.correlation_id,
        reply_to=original.reply_to,
        timestamp=original.timestamp,
        delivery_mode=DeliveryMode.PERSISTENT,
    )

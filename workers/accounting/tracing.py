"""The span of a usage event that is booked: FastStream's, for events that follow from a traced request."""

from typing import Any

from aio_pika import IncomingMessage
from faststream.message import StreamMessage
from faststream.opentelemetry.middleware import TelemetryMiddleware
from faststream.rabbit.opentelemetry.provider import RabbitTelemetrySettingsProvider
from faststream.rabbit.response import RabbitPublishCommand
from typing_extensions import override

from contracts import names
from infra.messaging_spans import consumed
from infra.trace_headers import trace_of


class _Booking(RabbitTelemetrySettingsProvider):
    """What FastStream's span `accounting process` tells, by the conventions that our other spans keep to."""

    @override
    def get_consume_attrs_from_message(self, msg: StreamMessage[IncomingMessage]) -> dict[str, Any]:
        return consumed(msg.raw_message, names.ACCOUNTING_QUEUE)

    @override
    def get_consume_destination_name(self, msg: StreamMessage[IncomingMessage]) -> str:
        return names.ACCOUNTING_QUEUE


def spans_of_bookings() -> TelemetryMiddleware[RabbitPublishCommand]:
    """The middleware; a message without a trace, as a heartbeat, does not begin one."""
    booking = _Booking()

    def of_traced(message: IncomingMessage | None) -> _Booking | None:
        return booking if message is not None and trace_of(message.headers) else None

    return TelemetryMiddleware(settings_provider_factory=of_traced)

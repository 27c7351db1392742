"""The span of a usage event that is booked, `process accounting`, where it follows from a traced request."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from aio_pika import IncomingMessage
from aiormq.abc import DeliveredMessage
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from typing_extensions import override

from contracts import names
from infra.consuming import Consuming
from infra.messaging_spans import consumed
from infra.trace_headers import trace_of
from workers.accounting.intake import Consumer, Delivery, Intake

if TYPE_CHECKING:
    from infra.consumed_metrics import BatchMetrics

TRACER = trace.get_tracer("keyway.accounting")
W3C = TraceContextTextMapPropagator()


class TracedIntake(Intake):
    """Continues an event's trace from its delivery to its acknowledgement.

    A message without a trace, as a heartbeat, does not begin one.
    """

    def __init__(self, consuming: Consuming, metrics: "BatchMetrics | None" = None) -> None:
        super().__init__(consuming, metrics)
        self._spans: WeakKeyDictionary[Delivery, Span] = WeakKeyDictionary()

    @override
    def _came(self, consumer: Consumer, message: DeliveredMessage) -> Delivery:
        delivery = super()._came(consumer, message)
        if context := trace_of(message.header.properties.headers):
            name = f"process {names.ACCOUNTING_QUEUE}"
            span = TRACER.start_span(name, W3C.extract(context), SpanKind.CONSUMER)
            if span.is_recording():
                span.set_attributes(consumed(IncomingMessage(message), names.ACCOUNTING_QUEUE))
                self._spans[delivery] = span
        return delivery

    @override
    def let_go(self, deliveries: Sequence[Delivery]) -> None:
        super().let_go(deliveries)
        for delivery in deliveries:
            if (span := self._spans.pop(delivery, None)) is not None:
                span.end()

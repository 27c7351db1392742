"""Exporting spans: OpenTelemetry's SDK with its exporter over OTLP/HTTP, which has a thread of its own.

Importing it takes a fifth of a second: only who traces does (`telemetry.configure_tracing`).
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer

log = structlog.get_logger()

#: How long a stopping service waits for the collector to take the last spans, in seconds.
FLUSH_S = 5.0


class SpanExport:
    """Exports the spans of this process, from now on, in the background; what finds no room is dropped."""

    def __init__(self, service: str, worker_id: str) -> None:
        """Begin; where to, and what else there is to say, is in OpenTelemetry's variables.

        Args:
            service: its name, where no variable names one.
            worker_id: the name of this process.
        """
        own = {SERVICE_NAME: service, SERVICE_VERSION: version("keyway"), SERVICE_INSTANCE_ID: worker_id}
        resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
        self._exporter = OTLPSpanExporter()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        trace.set_tracer_provider(self._provider)

    async def close(self) -> None:
        """Export what is left, for `FLUSH_S` at most."""
        flush = Thread(target=self._provider.shutdown, name="flush-spans", daemon=True)
        flush.start()
        await asyncio.to_thread(flush.join, FLUSH_S)
        if flush.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
            log.warning("spans_dropped", reason=f"the collector did not take them within {FLUSH_S:.0f} s")


@contextmanager
def spanning(tracer: Tracer, name: str, kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span]:
    """A span of what is done in the block, where the span around it is kept, and so recorded.

    Of an exception it tells the name alone, since texts may be secret.
    """
    around = trace.get_current_span()
    if not around.is_recording():
        yield around
        return
    with tracer.start_as_current_span(
        name, kind=kind, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            fail(span, type(error).__name__)
            raise


def fail(span: Span, error_type: str) -> None:
    """Say that what the span is of has failed."""
    span.set_status(StatusCode.ERROR)
    span.set_attribute(ERROR_TYPE, error_type)

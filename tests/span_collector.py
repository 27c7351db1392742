"""A collector of spans: takes OTLP over HTTP, as Jaeger or Tempo do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.harness import eventually

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
ERROR = 2


@dataclass(frozen=True)
class Span:
    """A span as it was exported; times in nanoseconds since the epoch."""

    service: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    is_error: bool
    attributes: dict[str, Any]


@dataclass
class SpanCollector:
    """What came, decoded and as bytes."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    raw: bytes = b""

    def of(self, trace_id: str) -> list[Span]:
        """The spans of a trace, as they began."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start)

    async def trace(self, trace_id: str, spans: int) -> list[Span]:
        """The same, once there are so many."""

        async def there() -> bool:
            return len(self.of(trace_id)) >= spans

        await eventually(there, f"{spans} spans of {trace_id}, not only {len(self.of(trace_id))}")
        return self.of(trace_id)

    async def take(self, request: web.Request) -> web.Response:
        """Take a batch."""
        body = await request.read()
        self.raw += body
        for of_service in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _attributes(of_service.resource.attributes)["service.name"]
            for scope in of_service.scope_spans:
                self.spans += [_span(service, span) for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def start_span_collector() -> AsyncIterator[SpanCollector]:
    """Listen on a free port of this machine."""
    collector = SpanCollector()
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        await runner.cleanup()


def _span(service: str, span: Any) -> Span:
    return Span(
        service,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        KINDS[span.kind],
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == ERROR,
        _attributes(span.attributes),
    )


def _attributes(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)

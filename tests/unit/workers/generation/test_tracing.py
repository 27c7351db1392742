"""The span of a delivery tells how it ended; without an endpoint nothing of OpenTelemetry is there."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast
from unittest.mock import AsyncMock

import orjson
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from infra.mongo import PyMongoError
from infra.settings import Settings
from infra.tracing_settings import TracingSettings
from tests.builders import NOW, make_delivery, make_envelope
from workers.generation import request as untraced
from workers.generation import tracing
from workers.generation.automation import Automation
from workers.generation.parts import UNTRACED, parts
from workers.generation.replies import NobodyWaitsError
from workers.generation.work import HandedBackError, LaneFullError

AUTOMATION = Automation("billing-bot", enabled=True, deadline_s=600, call_timeout_s=300, max_in_flight=None)
BODY = orjson.dumps({"path": "/moderations", "body": {"input": "secret"}})
TRACE_ID, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "TRACER", provider.get_tracer("test"))
    monkeypatch.setattr(untraced, "HAND_BACK_AFTER_S", 0)
    yield exporter
    exporter.shutdown()


def delivery(body: bytes = BODY, **headers: Any) -> Any:
    message: Any = make_delivery(body, headers=headers)
    message.exchange, message.ack, message.nack = "requests", AsyncMock(), AsyncMock()
    return message


def handler(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> Any:
    """A traced handler whose requests end so."""
    monkeypatch.setattr(untraced.RequestHandler, "_do", AsyncMock(side_effect=error))
    replies, publisher = AsyncMock(), AsyncMock()
    return tracing.TracedRequestHandler(
        Settings(), cast("Any", None), cast("Any", None), replies, publisher=publisher, now=lambda: NOW
    )


def of_delivery(exported: InMemorySpanExporter) -> ReadableSpan:
    (span,) = [span for span in exported.get_finished_spans() if span.name == "process requests.billing-bot"]
    return span


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (HandedBackError(), "handed_back"),
        (asyncio.CancelledError(), "handed_back"),
        (PyMongoError("secret"), "handed_back"),
        (NobodyWaitsError(), "cancelled"),
    ],
)
async def test_a_delivery_without_a_result_is_told_of_by_what_became_of_it(
    monkeypatch: pytest.MonkeyPatch, exported: InMemorySpanExporter, error: BaseException, status: str
) -> None:
    await handler(monkeypatch, error).handle(delivery(), AUTOMATION)
    span = of_delivery(exported)
    assert (span.attributes or {})["keyway.status"] == status
    assert span.status.status_code is StatusCode.UNSET


async def test_a_request_that_waits_in_its_queue_is_put_off(
    monkeypatch: pytest.MonkeyPatch, exported: InMemorySpanExporter
) -> None:
    with pytest.raises(LaneFullError):
        await handler(monkeypatch, LaneFullError(60)).handle(delivery(), AUTOMATION)
    assert (of_delivery(exported).attributes or {})["keyway.status"] == "put_off"


@pytest.mark.parametrize(
    ("body", "error", "status"),
    [(b"nonsense", None, "invalid_request"), (BODY, RuntimeError("secret"), "internal")],
)
async def test_what_can_not_be_done_is_an_error_whose_text_stays_here(
    monkeypatch: pytest.MonkeyPatch,
    exported: InMemorySpanExporter,
    body: bytes,
    error: Exception | None,
    status: str,
) -> None:
    await handler(monkeypatch, error).handle(delivery(body), AUTOMATION)
    span = of_delivery(exported)
    assert (span.attributes or {})["keyway.status"] == (span.attributes or {})["error.type"] == status
    assert span.status.status_code is StatusCode.ERROR
    assert "secret" not in span.to_json()


async def test_what_follows_from_a_request_continues_its_span(
    monkeypatch: pytest.MonkeyPatch, exported: InMemorySpanExporter
) -> None:
    message = delivery(traceparent=f"00-{TRACE_ID}-{CALLER}-01", tracestate="vendor=1", other="kept")
    await handler(monkeypatch, None).handle(message, AUTOMATION)
    span = of_delivery(exported)
    assert span.context is not None
    assert message.headers == {
        "traceparent": f"00-{TRACE_ID}-{span.context.span_id:016x}-01",
        "tracestate": "vendor=1",
        "other": "kept",
    }


@pytest.mark.parametrize("traceparent", ["nonsense", 7, "x" * 600, f"00-{'0' * 32}-{CALLER}-01"])
async def test_a_trace_context_that_is_none_is_replaced(
    monkeypatch: pytest.MonkeyPatch, exported: InMemorySpanExporter, traceparent: object
) -> None:
    message = delivery(traceparent=traceparent, tracestate="odd")
    await handler(monkeypatch, None).handle(message, AUTOMATION)
    span = of_delivery(exported)
    assert span.parent is None
    assert span.context is not None
    assert message.headers.keys() == {"traceparent"}
    ids = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-"
    assert message.headers["traceparent"].startswith(ids)


@pytest.mark.parametrize("published_at", [-(2**63), 0, 2**63 - 1])
async def test_whatever_time_a_publisher_claims_the_wait_is_a_span(
    monkeypatch: pytest.MonkeyPatch, exported: InMemorySpanExporter, published_at: int
) -> None:
    message = delivery(timestamp_in_ms=published_at)
    await handler(monkeypatch, None).handle(message, AUTOMATION)
    (waited,) = [span for span in exported.get_finished_spans() if span.name == "wait in queue"]
    assert waited.start_time is not None
    assert waited.end_time is not None
    assert 0 <= waited.start_time <= waited.end_time


async def test_accounting_continues_the_span_that_published_a_usage_event(
    exported: InMemorySpanExporter,
) -> None:
    exchange = AsyncMock()
    with tracing.TRACER.start_as_current_span("process"):
        await tracing.TracedPublisher(exchange, AsyncMock()).usage(make_envelope(), b"{}")
    span, around = exported.get_finished_spans()
    _, sent = exchange.publish.await_args.args
    assert (span.name, span.parent) == ("publish events", around.context)
    assert span.context is not None
    assert sent.headers["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"


def test_without_an_endpoint_the_parts_of_a_worker_know_nothing_of_traces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert parts(TracingSettings()) is UNTRACED
    imported = "import sys, workers.generation.app, workers.accounting.app; "
    check = imported + "sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0

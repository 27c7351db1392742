"""Trace context for a request's headers, with OpenTelemetry and without."""

import sys
from collections.abc import Iterator

import pytest
from opentelemetry.baggage import set_baggage
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from contracts import trace_context
from contracts.trace_context import trace_headers

SPAN = NonRecordingSpan(SpanContext(trace_id=1, span_id=2, is_remote=False, trace_flags=TraceFlags(1)))
TRACEPARENT = f"00-{1:032x}-{2:016x}-01"


@pytest.fixture
def without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", None)
    trace_context._inject.cache_clear()
    yield
    trace_context._inject.cache_clear()


def test_the_current_span_is_named() -> None:
    with use_span(SPAN):
        assert trace_headers() == {"traceparent": TRACEPARENT}


def test_no_span_no_headers() -> None:
    assert trace_headers() == {}


def test_a_trace_that_is_given_comes_first() -> None:
    with use_span(SPAN):
        assert trace_headers("00-given") == {"traceparent": "00-given"}


def test_baggage_does_not_leave_the_program() -> None:
    token = attach(set_baggage("secret", "1"))
    try:
        assert trace_headers() == {}
    finally:
        detach(token)


@pytest.mark.usefixtures("without_opentelemetry")
def test_without_opentelemetry_only_a_given_trace_is_named() -> None:
    with use_span(SPAN):
        assert trace_headers() == {}
        assert trace_headers(TRACEPARENT) == {"traceparent": TRACEPARENT}

"""W3C trace context for a request's headers, from OpenTelemetry where a program uses it."""

from functools import cache
from importlib import import_module
from typing import Protocol


class _Inject(Protocol):
    def __call__(self, carrier: dict[str, str]) -> None: ...


def trace_headers(traceparent: str | None = None) -> dict[str, str]:
    """The headers `traceparent` and `tracestate`, as far as there is a trace.

    Args:
        traceparent: the trace to name; by default the current span's, if OpenTelemetry is installed.
    """
    if traceparent is not None:
        return {"traceparent": traceparent}
    carrier: dict[str, str] = {}
    if inject := _inject():
        inject(carrier)
    return {name: carrier[name] for name in ("traceparent", "tracestate") if name in carrier}


@cache
def _inject() -> _Inject | None:
    try:
        inject: _Inject = import_module("opentelemetry.propagate").inject
    except ImportError:
        return None
    return inject

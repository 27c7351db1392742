"""W3C trace context in the headers of a message."""

from collections.abc import Mapping
from typing import Any

from contracts import names

#: W3C Trace Context asks that 512 characters of `tracestate` be passed on.
LONGEST_HEADER = 512
#: Hexadecimal digits of a trace's and of a span's id in a `traceparent` (W3C Trace Context).
TRACE_ID_DIGITS, SPAN_ID_DIGITS = 32, 16


def trace_of(headers: Mapping[str, Any] | None) -> Mapping[str, str] | None:
    """The trace context that came with a message; None where there is none."""
    if not headers:
        return None
    found = {name: headers[name] for name in names.TRACE_HEADERS if name in headers}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, str) and len(value) <= LONGEST_HEADER and value.isascii() and value.isprintable()
    } or None


def trace_ids(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """The ids in a message's `traceparent`, as fields of a log event; empty where there is no trace."""
    traceparent = (headers or {}).get("traceparent")
    parts = traceparent.split("-") if isinstance(traceparent, str) else []
    if len(parts) < 4 or (len(parts[1]), len(parts[2])) != (TRACE_ID_DIGITS, SPAN_ID_DIGITS):
        return {}
    return {"trace_id": parts[1], "span_id": parts[2]}

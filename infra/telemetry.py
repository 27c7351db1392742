"""Logs: events with fields, JSON in production and readable on a terminal, on standard error; and traces.

A line that concerns a request is given it as `about=`, and bears its ids and those of its trace.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

import orjson
import structlog

from infra.errors import SettingsError
from infra.trace_headers import trace_ids
from infra.tracing_settings import TracingSettings

if TYPE_CHECKING:
    from infra.settings import Settings

log = structlog.get_logger()

#: Libraries whose INFO lines say what our own events say already.
QUIET_LIBRARIES = ("aio_pika", "aiormq", "httpx2", "openai", "pymongo", "faststream", "urllib3")


class RequestIdentity(Protocol):
    """What a log line says of the request that it concerns."""

    @property
    def request_id(self) -> str:
        """The request's id."""

    @property
    def automation_id(self) -> str:
        """Whose request it is."""

    @property
    def trace(self) -> Mapping[str, str] | None:
        """Its trace context, as in the headers of a message."""


def configure_logging(settings: "Settings", service: str) -> None:
    """Send our events and the libraries' log lines to standard error in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(_json)
    )
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[about_request, *shared, renderer],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    structlog.contextvars.bind_contextvars(service=service, worker=settings.worker_id)


def configure_tracing(settings: "Settings", service: str, stack: AsyncExitStack) -> TracingSettings:
    """Export spans where OpenTelemetry's variables name an endpoint, until the stack is closed.

    Returns:
        Whether and how there are traces.

    Raises:
        SettingsError: one of the variables is wrong.
    """
    tracing = TracingSettings.load()
    if tracing.is_on:
        from infra.tracing import SpanExport  # noqa: PLC0415  # it takes a fifth of a second

        try:
            export = SpanExport(f"keyway-{service}", settings.worker_id)
        except ValueError as error:
            raise SettingsError(f"OpenTelemetry refuses one of its variables (OTEL_…): {error}") from None
        stack.push_async_callback(export.close)
        log.info("tracing", sampler=tracing.traces_sampler)
    return tracing


def _json(event: structlog.typing.EventDict, default: Callable[[object], object]) -> str:
    return orjson.dumps(event, default=default).decode()


def about_request(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put the ids of the request that is given as `about` into a log event, in its place."""
    about: RequestIdentity | None = event.pop("about", None)
    if about is not None:
        event.update(request_id=about.request_id, automation_id=about.automation_id)
        event.update(trace_ids(about.trace))
    return event

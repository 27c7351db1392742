"""What the console counts and times for Prometheus (docs/metrics.md)."""

import time

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.metrics import OTHER, Children, Exposition

#: HTTP methods that are told of one by one.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ConsoleMetrics:
    """The HTTP requests of one console process."""

    def __init__(self, exposition: Exposition) -> None:
        """Take where to register."""
        self._requests = Children(
            Counter(
                "keyway_console_requests_total",
                "HTTP requests of pages and API.",
                ["method", "status"],
                registry=exposition.registry,
            )
        )
        self._seconds = Histogram(
            "keyway_console_request_seconds",
            "From an HTTP request to the end of its answer.",
            registry=exposition.registry,
        )

    def answered(self, method: str, status: int, seconds: float) -> None:
        """Count and time a request.

        Args:
            method: of HTTP.
            status: of the answer.
            seconds: that it took.
        """
        self._requests[method if method in METHODS else OTHER, str(status)].inc()
        self._seconds.observe(seconds)


class Counted:
    """Middleware that counts each HTTP request; websockets are none."""

    def __init__(self, app: ASGIApp, metrics: ConsoleMetrics) -> None:
        """Take what answers, and what counts."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer and count; one that fails without an answer is answered with 500 by who called."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.answered(scope["method"], status, time.perf_counter() - began)

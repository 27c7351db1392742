"""Metrics for Prometheus: one registry a process, served at `/metrics` where a port is set."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase

from infra.listening import listen
from infra.settings import Settings

log = structlog.get_logger()

#: Models that get a label of their own in one process; further ones are told together, as `OTHER`.
MOST_MODELS = 50
#: Those of them that the providers of one automation may name, so that one that lies leaves room for others.
MOST_OF_AUTOMATION = 25
OTHER = "other"

Metric = TypeVar("Metric", bound=MetricWrapperBase)


class Children(dict[tuple[str, ...], Metric], Generic[Metric]):
    """The children of a metric by their labels' values, each looked up in the metric once."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: tuple[str, ...]) -> Metric:
        child = self[values] = self._metric.labels(*values)
        return child


class ModelNames:
    """The values of the label `model`: few, whatever models requests and providers name."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        #: How many of them were first named for each automation.
        self._named: Counter[str] = Counter()

    def label(self, model: str | None, *, answered_for: str | None) -> str:
        """A model's label.

        Args:
            model: its name; None: nobody named one.
            answered_for: the automation whose provider has answered under this name; None: no provider has,
                and the model gets no label of its own.
        """
        if model is None:
            return OTHER
        if model in self._known:
            return model
        if answered_for is None or len(self._known) >= MOST_MODELS:
            return OTHER
        if self._named[answered_for] >= MOST_OF_AUTOMATION:
            return OTHER
        self._named[answered_for] += 1
        self._known.add(model)
        return model


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a service does what it is for, and what it lacks.

    Attributes:
        is_ready: whether nothing is lacking.
        body: says what is and what is not there, as JSON.
    """

    is_ready: bool
    body: Mapping[str, Any]


STARTING = Readiness(is_ready=False, body={"starting": True})


class Exposition:
    """What one process tells Prometheus, and who watches whether it is well.

    Attributes:
        registry: where metrics are registered.
        service: such as `generation`.
    """

    def __init__(self, service: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.service = service
        self._before: list[Callable[[], Awaitable[None]]] = []
        self._readiness: Callable[[], Readiness] = lambda: STARTING
        ProcessCollector(registry=self.registry)

    def before_scrape(self, prepare: Callable[[], Awaitable[None]]) -> None:
        """Have something done before each answer."""
        self._before.append(prepare)

    def tell_readiness(self, readiness: Callable[[], Readiness]) -> None:
        """Have `/readyz` tell this from now on."""
        self._readiness = readiness

    async def healthz(self, _: web.Request) -> web.Response:
        """Say that the process runs."""
        return web.json_response({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """Say whether the service does what it is for: 200, or 503 with what it lacks."""
        found = self._readiness()
        status = "ok" if found.is_ready else "unavailable"
        return web.json_response({"status": status, **found.body}, status=200 if found.is_ready else 503)

    async def answer(self, request: web.Request) -> web.Response:
        """All metrics as they are now, in the format that the scraper prefers."""
        for prepare in self._before:
            await prepare()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # In a thread: many series take their time, and requests are not to wait for it.
        body = await asyncio.to_thread(encode, self.registry)
        return web.Response(body=body, headers={"Content-Type": content_type})


@asynccontextmanager
async def exposed_metrics(settings: Settings, service: str) -> AsyncIterator[Exposition | None]:
    """Serve this process' metrics, where a port is set.

    Yields:
        Where to register metrics; None where none are to be kept.

    Raises:
        PlatformError: the port is taken.
    """
    if settings.metrics_port is None:
        yield None
        return
    exposition = Exposition(service)
    application = web.Application()
    application.router.add_get("/metrics", exposition.answer)
    application.router.add_get("/healthz", exposition.healthz)
    application.router.add_get("/readyz", exposition.readyz)
    listener = listen(settings.metrics_host, settings.metrics_port, "KEYWAY_METRICS_PORT")
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        host, port = listener.getsockname()[:2]
        log.info("metrics_served", url=f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
        yield exposition
    finally:
        await runner.cleanup()

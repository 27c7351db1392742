"""The parts that do a worker's requests: as they are, or with spans of what they do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from infra.tracing_settings import TracingSettings
from infra.vault import Vault
from workers.generation.attempts import Attempts
from workers.generation.metrics import RequestMetrics
from workers.generation.publishing import Publisher
from workers.generation.replies import Replies
from workers.generation.request import RequestHandler
from workers.generation.upstream import Upstream
from workers.keys.pool import KeyPool


@dataclass(frozen=True, slots=True)
class Parts:
    """What makes the parts of a worker."""

    attempts: Callable[[KeyPool, Upstream, Vault, RequestMetrics | None], Attempts]
    handler: type[RequestHandler]
    publisher: type[Publisher]
    replies: type[Replies]


UNTRACED: Final = Parts(Attempts, RequestHandler, Publisher, Replies)


def parts(tracing: TracingSettings) -> Parts:
    """Those with spans, where there are traces; else those that know nothing of any."""
    if not tracing.is_on:
        return UNTRACED
    from workers.generation.tracing import traced  # noqa: PLC0415  # OpenTelemetry takes a while to import

    return traced(with_content=tracing.instrumentation_genai_capture_message_content)

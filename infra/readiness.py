"""Whether a service is ready, and what it consumes: in metrics and at `/readyz`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aio_pika.abc import AbstractRobustConnection
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

from infra.consuming import Consuming
from infra.metrics import Exposition, Readiness

if TYPE_CHECKING:
    from infra.consumed_metrics import BatchMetrics

#: Queues that `/readyz` names.
MOST_NAMED = 100


class NotConsumedGauge(Collector):
    """How many queues of each kind should be consumed and are not.

    Args:
        consuming: knows them.
        service: that consumes them, such as `generation`.
    """

    def __init__(self, consuming: Consuming, service: str) -> None:
        self._consuming = consuming
        self._service = service

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        (family,) = self.describe()
        counts = Counter(missing.kind for missing in self._consuming.not_consumed)
        for kind in self._consuming.kinds:
            family.add_metric([self._service, kind], counts[kind])
        yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The gauge without its values."""
        yield GaugeMetricFamily(
            "keyway_queues_not_consumed",
            "Queues that this process should consume and does not.",
            labels=["service", "kind"],
        )


def readiness(consuming: Consuming) -> Readiness:
    """Ready is who is connected and consumes every queue that it should."""
    missing = consuming.not_consumed
    body: dict[str, Any] = {
        "rabbitmq": consuming.is_connected,
        "not_consumed": [asdict(queue) for queue in missing[:MOST_NAMED]],
        "not_consumed_count": len(missing),
    }
    return Readiness(is_ready=consuming.is_connected and not missing, body=body)


def consuming_on(
    connection: AbstractRobustConnection, exposition: Exposition | None
) -> "tuple[Consuming, BatchMetrics | None]":
    """What consumes a service's queues, and tells of them where metrics are served.

    Returns:
        It, and what counts the messages that are consumed; None where nothing is counted.
    """
    consuming = Consuming(connection)
    if exposition is None:
        return consuming, None
    from infra.consumed_metrics import BatchMetrics  # noqa: PLC0415  # it takes a third of a second

    exposition.registry.register(NotConsumedGauge(consuming, exposition.service))
    exposition.tell_readiness(lambda: readiness(consuming))
    return consuming, BatchMetrics(exposition)

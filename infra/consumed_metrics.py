"""FastStream's own metrics of what services consume, with handlers that are few.

Services consume without its subscribers, and count under its names.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from faststream.prometheus.container import MetricsContainer
from faststream.prometheus.types import ProcessingStatus

from contracts import names
from infra.metrics import Children, Exposition

#: FastStream's name for the broker.
BROKER = "rabbitmq"
#: The events that services consume, as routing keys begin, before the automation.
EVENTS = frozenset(
    names.event_routing_key(event, "").rstrip(".")
    for event in (
        names.USAGE_RECORDED,
        names.USAGE_REPORTED,
        names.HEARTBEAT,
        names.CONFIG_CHANGED,
        names.KEY_STATUS_CHANGED,
    )
)
#: Those that services consume from; automations name others.
EXCHANGES = frozenset({"", names.REQUESTS_EXCHANGE, names.EVENTS_EXCHANGE, names.DEAD_EXCHANGE})


def handler_name(exchange: str, routing_key: str) -> str:
    """What a message is counted under: its exchange, and its event without the automation.

    Routing keys as they are would make a label of each automation, and of whatever else somebody publishes.
    """
    event = routing_key.rpartition(".")[0]
    known = (exchange or "default") if exchange in EXCHANGES else "other"
    return ".".join(filter(None, (known, event if event in EVENTS else "")))


class Received(NamedTuple):
    """A message in hand: what it is counted under, and since when it is there, in seconds of some clock."""

    handler: str
    at: float


class BatchMetrics:
    """Counts what a service consumes: message by message, or in batches."""

    def __init__(self, exposition: Exposition) -> None:
        metrics = MetricsContainer(exposition.registry, custom_label_names=())
        self._labels = (exposition.service, BROKER)
        self._received = Children(metrics.received_messages_total)
        self._sizes = Children(metrics.received_messages_size_bytes)
        self._in_process = Children(metrics.received_messages_in_process)
        self._processed = Children(metrics.received_processed_messages_total)
        self._durations = Children(metrics.received_processed_messages_duration_seconds)

    def begin(self, exchange: str, routing_key: str, size: int) -> Received:
        """Count a message that came, with the size of its body in bytes."""
        handler = handler_name(exchange, routing_key)
        labels = (*self._labels, handler)
        self._received[labels].inc()
        self._sizes[labels].observe(size)
        self._in_process[labels].inc()
        return Received(handler, time.perf_counter())

    def end(self, messages: Sequence[Received]) -> None:
        """Count messages that are done, or whose channel is gone, as FastStream does."""
        now = time.perf_counter()
        for handler, count in Counter(message.handler for message in messages).items():
            labels = (*self._labels, handler)
            self._in_process[labels].dec(count)
            self._processed[(*labels, ProcessingStatus.acked.value)].inc(count)
        for message in messages:
            self._durations[(*self._labels, message.handler)].observe(now - message.at)

"""FastStream's own metrics of what its subscribers consume, with handlers that are few."""

from typing import TYPE_CHECKING

from aio_pika import IncomingMessage
from faststream.prometheus import ConsumeAttrs
from faststream.prometheus.middleware import PrometheusMiddleware
from faststream.rabbit.prometheus.provider import RabbitMetricsSettingsProvider
from faststream.rabbit.response import RabbitPublishCommand

from contracts import names
from infra.metrics import Exposition

if TYPE_CHECKING:
    from faststream.message.message import StreamMessage

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


def handler_name(exchange: str, routing_key: str) -> str:
    """What a message is counted under: its exchange, and its event without the automation.

    Routing keys as they are would make a label of each automation, and of whatever else somebody publishes.
    """
    event = routing_key.rpartition(".")[0]
    return ".".join(filter(None, (exchange or "default", event if event in EVENTS else "")))


class _FewHandlers(RabbitMetricsSettingsProvider):
    def get_consume_attrs_from_message(self, msg: "StreamMessage[IncomingMessage]") -> ConsumeAttrs:
        raw = msg.raw_message
        return {
            "destination_name": handler_name(raw.exchange or "", raw.routing_key or ""),
            "message_size": len(msg.body),
            "messages_count": 1,
        }

    def get_publish_destination_name_from_cmd(self, cmd: RabbitPublishCommand) -> str:
        return handler_name(cmd.exchange.name, cmd.destination)


def consumed_metrics(exposition: Exposition) -> PrometheusMiddleware[IncomingMessage, RabbitPublishCommand]:
    """The middleware for a broker's subscribers."""
    provider = _FewHandlers()
    return PrometheusMiddleware(
        settings_provider_factory=lambda _: provider,
        registry=exposition.registry,
        app_name=exposition.service,
    )

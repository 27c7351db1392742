"""What a delivery tells of: read strictly, and refused with a reason that names the field."""

from dataclasses import dataclass
from typing import TypeAlias

from aiormq.abc import DeliveredMessage
from pydantic import ValidationError

from contracts import names
from contracts.messages import Heartbeat, UsageRecorded, UsageReported
from infra.origin import misrouted
from workers.accounting.leases import Refused, Report


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """An automation's heartbeat; the broker vouches for which automation."""

    automation_id: str
    heartbeat: Heartbeat


Event: TypeAlias = UsageRecorded | Report | SignOfLife | Refused


def read(message: DeliveredMessage) -> Event:
    """Read an event, or say why it is refused.

    The broker vouches for the routing key of what came by the way that it checks, and for nothing else of
    what an automation sends.
    """
    routing_key, event_type = message.routing_key or "", message.header.properties.message_type
    automation_id = routing_key.rpartition(".")[2]
    if routing_key != names.event_routing_key(event_type or "", automation_id):
        return Refused(f"type {event_type!r} does not go with routing key {routing_key!r}")
    way = misrouted(
        exchange=message.exchange,
        routing_key=routing_key,
        headers=message.header.properties.headers,
        expected=(names.EVENTS_EXCHANGE, routing_key),
        automation_id=automation_id,
    )
    if way is not None:
        return Refused(way)
    try:
        if event_type == names.USAGE_RECORDED:
            return UsageRecorded.model_validate_json(message.body)
        if event_type == names.USAGE_REPORTED:
            return Report(automation_id, UsageReported.model_validate_json(message.body))
        if event_type == names.HEARTBEAT:
            return SignOfLife(automation_id, Heartbeat.model_validate_json(message.body))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return Refused(f"{where}: {first['msg']}")
    return Refused(f"no use for messages of type {event_type!r}")

"""What a delivery tells of: read strictly, and refused with a reason that names the field."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from aiormq.abc import DeliveredMessage
from pydantic import ValidationError

from contracts import names
from contracts.messages import Heartbeat, Usage, UsageRecorded, UsageReported
from infra.bounds import LONGEST_MS, MOST_COUNTED, MOST_NANOUSD, MOST_TOKENS
from infra.deliveries import why_unreadable
from infra.origin import misrouted
from workers.accounting.leases import Refused, Report

#: The largest heartbeat or report, in bytes.
LARGEST_BODY = 64 * 1024
#: The longest host or version of a heartbeat, in characters.
LONGEST_TEXT = 200
#: When a process may have started.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


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
    if (problem := _problem(message, automation_id)) is not None:
        return Refused(problem)
    try:
        if event_type == names.USAGE_RECORDED:
            return _recorded(UsageRecorded.model_validate_json(message.body), automation_id)
        if event_type == names.USAGE_REPORTED:
            return Report(automation_id, UsageReported.model_validate_json(message.body))
        if event_type == names.HEARTBEAT:
            return _sign_of_life(Heartbeat.model_validate_json(message.body), automation_id)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return Refused(f"{where}: {first['msg']}")
    return Refused(f"no use for messages of type {event_type!r}")


def _problem(message: DeliveredMessage, automation_id: str) -> str | None:
    """What is wrong beside the body."""
    properties, routing_key = message.header.properties, message.routing_key or ""
    event_type = properties.message_type
    if (unreadable := why_unreadable(properties.headers)) is not None:
        return unreadable
    if routing_key != names.event_routing_key(event_type or "", automation_id):
        return f"type {event_type!r} does not go with routing key {routing_key!r}"
    if not names.is_automation_id(automation_id):
        return f"{automation_id!r} is no automation's id"
    way = misrouted(
        exchange=message.exchange,
        routing_key=routing_key,
        headers=properties.headers,
        expected=(names.EVENTS_EXCHANGE, routing_key),
        automation_id=automation_id,
    )
    if way is not None:
        return way
    if event_type != names.USAGE_RECORDED and len(message.body) > LARGEST_BODY:
        return f"the body has {len(message.body)} bytes, more than the {LARGEST_BODY} that are accepted"
    return None


def _recorded(event: UsageRecorded, automation_id: str) -> UsageRecorded | Refused:
    if event.automation_id != automation_id:
        return Refused(f"automation_id: expected {automation_id!r}, as in the routing key")
    bounds = (
        *((name, MOST_TOKENS) for name in (*Usage.model_fields, "reserved_tokens")),
        ("cost_nanousd", MOST_NANOUSD),
        ("latency_ms", LONGEST_MS),
    )
    for name, most in bounds:
        if getattr(event, name) > most:
            return Refused(f"{name}: expected at most {most}")
    return event


def _sign_of_life(heartbeat: Heartbeat, automation_id: str) -> SignOfLife | Refused:
    if max(len(heartbeat.host), len(heartbeat.version)) > LONGEST_TEXT:
        return Refused(f"host and version: expected at most {LONGEST_TEXT} characters")
    if heartbeat.in_flight > MOST_COUNTED:
        return Refused(f"in_flight: expected at most {MOST_COUNTED}")
    if not EARLIEST <= heartbeat.started_at <= LATEST:
        return Refused(f"started_at: expected {EARLIEST:%Y} to {LATEST:%Y}")
    return SignOfLife(automation_id, heartbeat)

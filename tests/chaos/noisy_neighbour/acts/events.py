"""Events that a token may publish: heartbeats and reports, of every wrong form."""

from typing import Any

import orjson

from contracts import names
from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.acts.properties import BROKER_MAY_SAY
from tests.chaos.noisy_neighbour.amqp_bytes import refusal_of
from tests.chaos.noisy_neighbour.neighbour import Neighbour

EVENTS = Kind("events")
KINDS = {"heartbeat": names.HEARTBEAT, "usage.reported": names.USAGE_REPORTED}
HEARTBEAT: dict[str, Any] = {
    "version": "1",
    "host": "h",
    "started_at": "2026-01-01T00:00:00Z",
    "in_flight": 0,
}
ODD: tuple[Any, ...] = (None, -1, 2**63 - 1, 1e300, "", "x", "\0", "$set", "x" * 100_000, [], {}, True)


async def tell_each(neighbour: Neighbour, *messages: tuple[bytes, dict[str, Any]]) -> None:
    """Each message as a heartbeat and as a report of usage."""
    for event, message_type in KINDS.items():
        for body, some in messages:
            telling = neighbour.tell(event, (body, {"type": message_type, **some}))
            assert await refusal_of(telling) in BROKER_MAY_SAY, some


@EVENTS.act("events whose properties are the bytes FF FE")
async def no_text(neighbour: Neighbour) -> None:
    body = orjson.dumps(HEARTBEAT)
    properties = ("message_id", "correlation_id", "type", "app_id", "reply_to", "content_type")
    await tell_each(neighbour, *((body, {name: b"\xff\xfe"}) for name in properties))


@EVENTS.act("events with absurd headers and times")
async def odd_headers(neighbour: Neighbour) -> None:
    body = orjson.dumps(HEARTBEAT)
    times: tuple[Any, ...] = (-(2**63), 2**63 - 1, "now", None, [], 0.5)
    await tell_each(
        neighbour,
        *((body, {"headers": {"timestamp_in_ms": one, "traceparent": one}}) for one in times),
        *((body, {"timestamp": one}) for one in (2**63, 2**64 - 1, 1_795_500_000_000)),
        *((body, {"headers": {"x-death": one, "x-delivery-count": one}}) for one in times),
    )


@EVENTS.act("events that are no JSON, deep, or huge")
async def odd_bodies(neighbour: Neighbour) -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    bodies = (
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        deep,
        b'{"version": "' + b"x" * 2_000_000 + b'"}',
    )
    await tell_each(neighbour, *((body, {}) for body in bodies))


@EVENTS.act("heartbeats with absurd fields")
async def odd_heartbeats(neighbour: Neighbour) -> None:
    bodies = (orjson.dumps({**HEARTBEAT, name: one}) for name in HEARTBEAT for one in ODD)
    await neighbour.tell("heartbeat", *((body, {"type": names.HEARTBEAT}) for body in bodies))
    times = ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59")
    odd = (orjson.dumps({**HEARTBEAT, "started_at": one}) for one in times)
    await neighbour.tell("heartbeat", *((body, {"type": names.HEARTBEAT}) for body in odd))


@EVENTS.act("heartbeats of three thousand hosts and versions")
async def many_hosts(neighbour: Neighbour) -> None:
    bodies = (
        orjson.dumps({**HEARTBEAT, "host": f"h-{n}", "version": f"v-{n}"})
        for n in range(neighbour.many(3000))
    )
    await neighbour.tell("heartbeat", *((body, {"type": names.HEARTBEAT}) for body in bodies))


@EVENTS.act("the books, written by the type of a message")
async def forged_books(neighbour: Neighbour) -> None:
    from tests.builders import usage_recorded

    bots = (neighbour.name, neighbour.ordinary.bot)
    bodies = (usage_recorded(automation_id=bot, event_id="forged").model_dump_json().encode() for bot in bots)
    types = (names.USAGE_RECORDED, names.BUDGET_CROSSED, names.CONFIG_CHANGED, names.KEY_STATUS_CHANGED)
    await tell_each(neighbour, *((body, {"type": one}) for body in bodies for one in types))

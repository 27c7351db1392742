"""Properties and headers that a client library would not write, of requests to its own lane."""

import struct
from collections.abc import Mapping
from typing import Any

from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.amqp_bytes import Raw, refusal_of, short, table
from tests.chaos.noisy_neighbour.neighbour import BAD, GOOD, STREAMED, Neighbour

PROPERTIES = Kind("properties")
NOT_TEXT = b"\xff\xfe"
END_OF_TIME = 2**63
#: That it takes the message, that a property is not allowed, or that it stumbled over it.
BROKER_MAY_SAY = {None, 0, 406, 501, 502, 541}


async def ask_with(neighbour: Neighbour, *properties: Mapping[str, Any]) -> None:
    """Good, streamed and refused requests with each of these properties, answered to its own queue."""
    await neighbour.declare(durable=True)
    for some in properties:
        asked = {"reply_to": neighbour.reply_queue, **some}
        asking = neighbour.ask_each(*((body, asked) for body in (GOOD, STREAMED, BAD)))
        assert await refusal_of(asking) in BROKER_MAY_SAY, some


def nested(depth: int) -> Raw:
    """Tables in tables; an encoder that recurs would not come so far."""
    wire = b"V"
    for _ in range(depth):
        inner = short("a") + wire
        wire = b"F" + struct.pack(">I", len(inner)) + inner
    return Raw(wire)


@PROPERTIES.act("a message_id of the bytes FF FE")
async def id_that_is_no_text(neighbour: Neighbour) -> None:
    await ask_with(neighbour, {"message_id": NOT_TEXT})


@PROPERTIES.act("a correlation_id of the bytes FF FE")
async def correlation_that_is_no_text(neighbour: Neighbour) -> None:
    await ask_with(neighbour, {"correlation_id": NOT_TEXT})


@PROPERTIES.act("a type, an app_id and a cluster_id of the bytes FF FE")
async def names_that_are_no_text(neighbour: Neighbour) -> None:
    await ask_with(neighbour, {"type": NOT_TEXT}, {"app_id": NOT_TEXT}, {"cluster_id": NOT_TEXT})


@PROPERTIES.act("a content_type and a content_encoding of the bytes FF FE")
async def content_that_is_no_text(neighbour: Neighbour) -> None:
    await ask_with(neighbour, {"content_type": NOT_TEXT}, {"content_encoding": NOT_TEXT})


@PROPERTIES.act("header names and values of the bytes FF FE")
async def headers_that_are_no_text(neighbour: Neighbour) -> None:
    name = Raw(struct.pack(">I", 4) + b"\x02" + NOT_TEXT + b"V")
    await ask_with(
        neighbour,
        {"headers": name},
        {"headers": {"traceparent": NOT_TEXT}},
        {"headers": {"a": [NOT_TEXT, {"b": NOT_TEXT}]}},
    )


@PROPERTIES.act("text of overlong and surrogate bytes in every property")
async def odd_utf8(neighbour: Neighbour) -> None:
    for odd in (b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"abc\xe2\x82"):
        await ask_with(
            neighbour, *({name: odd} for name in ("message_id", "correlation_id", "type", "content_type"))
        )


@PROPERTIES.act("an empty message_id, one of 255 bytes, and none")
async def lengths_of_ids(neighbour: Neighbour) -> None:
    long = "x" * 255
    await ask_with(
        neighbour, {"message_id": ""}, {"message_id": long}, {"message_id": long, "correlation_id": long}, {}
    )


@PROPERTIES.act("ids with slashes, dollars, dots, NUL, line ends and right-to-left marks")
async def ids_of_odd_text(neighbour: Neighbour) -> None:
    odd = (
        "a/b",
        "$set",
        "a.b.c",
        "\0",
        "a\0b",
        "\r\nX-Evil: 1",
        "..",
        "\u202ex",
        "🔑",
        " ",
        "%00",
        "{'$gt': ''}",
    )
    await ask_with(neighbour, *({"message_id": one, "correlation_id": one} for one in odd))


@PROPERTIES.act("a header timestamp_in_ms of -2^63, 2^63-1, and others that are no time")
async def times_in_headers(neighbour: Neighbour) -> None:
    odd: tuple[Any, ...] = (
        -END_OF_TIME,
        END_OF_TIME - 1,
        0,
        -1,
        2**53,
        float("nan"),
        float("inf"),
        True,
        "now",
        None,
        [],
        {},
    )
    await ask_with(neighbour, *({"headers": {"timestamp_in_ms": one}} for one in odd))


@PROPERTIES.act("a timestamp of 2^63, 2^64-1, and in milliseconds")
async def times_in_properties(neighbour: Neighbour) -> None:
    odd = (END_OF_TIME, 2 * END_OF_TIME - 1, 1_795_500_000_000, 0, 253_402_300_800)
    await ask_with(neighbour, *({"timestamp": one} for one in odd))


@PROPERTIES.act("header fields of every type that AMQP and RabbitMQ know")
async def types_of_headers(neighbour: Neighbour) -> None:
    wires = {
        "int8": b"b\x80",
        "uint8": b"B\xff",
        "int16": b"s\x80\x00",
        "uint16": b"u\xff\xff",
        "int32": b"I\x80\x00\x00\x00",
        "uint32": b"i\xff\xff\xff\xff",
        "float": b"f\x7f\xc0\x00\x00",
        "decimal": b"D\xff\xff\xff\xff\xff",
        "time": b"T\xff\xff\xff\xff\xff\xff\xff\xff",
        "bytes": b"x\x00\x00\x00\x02\xff\xfe",
        "void": b"V",
    }
    await ask_with(neighbour, *({"headers": {name: Raw(wire)}} for name, wire in wires.items()))
    await ask_with(neighbour, *({"headers": {"timestamp_in_ms": Raw(wire)}} for wire in wires.values()))


@PROPERTIES.act("headers nested three hundred deep")
async def deep_headers(neighbour: Neighbour) -> None:
    await ask_with(neighbour, {"headers": {"deep": nested(300)}}, {"headers": {"traceparent": nested(300)}})


@PROPERTIES.act("a hundred kilobytes of headers, and two thousand of them")
async def huge_headers(neighbour: Neighbour) -> None:
    many = {f"h{number}": number for number in range(2000)}
    long = {"traceparent": "x" * 50_000, "tracestate": "y" * 50_000}
    await ask_with(neighbour, {"headers": many}, {"headers": long})


@PROPERTIES.act("the same header many times over")
async def repeated_headers(neighbour: Neighbour) -> None:
    one = table({"timestamp_in_ms": -END_OF_TIME})[4:] + table({"traceparent": NOT_TEXT})[4:]
    await ask_with(neighbour, {"headers": Raw(struct.pack(">I", len(one) * 500) + one * 500)})


@PROPERTIES.act("a forged x-death of every form, on requests that are dead-lettered")
async def forged_deaths(neighbour: Neighbour) -> None:
    lane, other = f"requests.{neighbour.name}", f"requests.{neighbour.ordinary.bot}"
    death = {"queue": other, "reason": "delivery_limit", "count": 1, "exchange": "requests"}
    whole = {**death, "routing-keys": [neighbour.ordinary.bot], "time": Raw(b"T" + struct.pack(">Q", 1))}
    forms: tuple[Any, ...] = (
        [whole],
        [whole, {**whole, "queue": lane}],
        [{**whole, "count": END_OF_TIME - 1}],
    )
    await ask_with(neighbour, *({"headers": {"x-death": form}} for form in forms))
    await neighbour.ask_each(
        *((GOOD, {"headers": {"x-death": form}, "expiration": "0"}) for form in forms),
        *(
            (BAD, {"headers": {"x-first-death-queue": other, "x-delivery-count": odd}})
            for odd in (-1, "x", 2**62)
        ),
    )


@PROPERTIES.act("an x-death that is no list of tables")
async def malformed_deaths(neighbour: Neighbour) -> None:
    forms: tuple[Any, ...] = (
        "dead",
        7,
        {},
        [1],
        [[]],
        [{}],
        [{"queue": 1, "reason": [], "count": "x"}],
        None,
    )
    await ask_with(neighbour, *({"headers": {"x-death": form}} for form in forms))


@PROPERTIES.act("odd expirations, which the broker judges")
async def expirations(neighbour: Neighbour) -> None:
    for odd in ("", "-1", "x", "1.5", NOT_TEXT, str(2**63)):
        assert await neighbour.refused_with("requests", neighbour.name, expiration=odd) in {None, 406}, odd
    await ask_with(neighbour, {"expiration": "0"}, {"expiration": "1"}, {"expiration": "4294967295"})


@PROPERTIES.act("priorities and delivery modes of 0, 3, 128 and 255")
async def priorities(neighbour: Neighbour) -> None:
    odd = (0, 3, 128, 255)
    await ask_with(neighbour, *({"priority": one} for one in odd), *({"delivery_mode": one} for one in odd))


@PROPERTIES.act("types, encodings and trace contexts of somebody else's making")
async def odd_words(neighbour: Neighbour) -> None:
    types = (
        "generation.result.v1",
        "usage.recorded.v1",
        "config.changed.v1",
        "generation.request.v999",
        "\0",
    )
    traces = ("", "00-" + "0" * 32 + "-" + "0" * 16 + "-00", "ff-" + "f" * 52, "00-é", "x" * 1000, 7, None)
    await ask_with(
        neighbour,
        *({"type": one} for one in types),
        *({"content_encoding": one} for one in ("gzip", "utf-16", "\0", "x" * 255)),
        *({"headers": {"traceparent": one, "tracestate": one}} for one in traces),
    )


@PROPERTIES.act("a name for a property that has the longest name there is")
async def longest_names(neighbour: Neighbour) -> None:
    wire = short("n" * 255) + b"V"
    await ask_with(neighbour, {"headers": Raw(struct.pack(">I", len(wire)) + wire), "type": "t" * 255})

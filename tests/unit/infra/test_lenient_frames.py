"""Whatever a publisher chose is decoded, marked where it can't be, and can be sent on."""

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aio_pika import Message
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from infra.dead_letter_facts import plain
from infra.dead_letters import MOST_PROPERTY_BYTES, sendable
from infra.deliveries import why_unreadable
from infra.field_tables import DEEPEST, END_OF_TIME, MOST_VALUES
from infra.lenient_frames import MOST_KEPT_BYTES, be_lenient

MESSAGE_ID, HEADERS, REPLY_TO, TIMESTAMP, EXPIRATION, DELIVERY_MODE = 128, 8192, 512, 64, 256, 4096
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def lenient() -> None:
    be_lenient()


def header_of(flags: int, properties: bytes) -> ContentHeader:
    """The header of an empty message, as it comes from a connection."""
    payload = struct.pack(">HHQH", 60, 0, 0, flags) + properties
    whole = struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"
    header = frame.unmarshal(whole)[2]
    assert isinstance(header, ContentHeader)
    return header


def short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


def table(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def mark_of(header: ContentHeader) -> Any:
    return (header.properties.headers or {})["x-keyway-undecodable"]


def problem_of(header: ContentHeader) -> str:
    return why_unreadable(header.properties.headers) or ""


def test_ordinary_properties_are_read_as_pamqp_reads_them() -> None:
    headers: Any = {
        "timestamp_in_ms": 1_795_500_000_000,
        "text": "ключ",
        "deep": {"list": [1, -1, None, True, {"at": NOON}]},
        "price": Decimal("1.25"),
        "bytes": bytearray(b"\xff"),
        "half": 0.5,
    }
    written = Basic.Properties(
        content_type="application/json",
        content_encoding="gzip",
        headers=headers,
        delivery_mode=2,
        priority=9,
        correlation_id="c-1",
        reply_to="replies.bot",
        expiration="5000",
        message_id="m-1",
        timestamp=NOON,
        message_type="generation.request.v1",
        user_id="bot",
        app_id="app",
    )
    read = frame.unmarshal(frame.marshal(ContentHeader(body_size=7, properties=written), 1))[2]
    assert isinstance(read, ContentHeader)
    assert read.properties == written
    assert (read.weight, read.body_size) == (0, 7)
    assert why_unreadable(read.properties.headers) is None


def test_a_message_id_that_is_no_text_leaves_text_and_the_bytes() -> None:
    header = header_of(MESSAGE_ID, short(b"a\xff\xfe"))
    properties = header.properties
    assert properties.message_id == r"a\xff\xfe"
    assert why_unreadable(properties.headers) == "message_id is not UTF-8"
    assert mark_of(header)["properties"].endswith(b"a\xff\xfe")


def test_where_the_address_of_an_answer_can_not_be_read_there_is_none() -> None:
    properties = header_of(REPLY_TO, short(b"replies.bot\xff")).properties
    assert properties.reply_to is None
    assert why_unreadable(properties.headers) == "reply_to is not UTF-8"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (table(b"\x01\xffV"), "a name is not UTF-8"),
        (table(b"\x01aZ"), "there is no type b'Z'"),
        (table(b"\x01a"), "end too early"),
        (table(b"\x01aS" + struct.pack(">I", 99) + b"x"), "end too early"),
        (table(b"\x01aF" + struct.pack(">I", 99)), "end too early"),
        (struct.pack(">I", 2**32 - 1), "end too early"),
        (table(b"\x01al\x00"), "end too early"),
        (table(b"\x00V" * (MOST_VALUES + 1)), "more than 1000 values"),
    ],
    ids=["name", "type", "no-value", "text", "table", "length", "number", "many"],
)
def test_headers_that_can_not_be_read_are_said_to_be_so(raw: bytes, reason: str) -> None:
    header = header_of(HEADERS | MESSAGE_ID, raw + short(b"m-1"))
    assert reason in problem_of(header)


def test_what_follows_unreadable_headers_is_read() -> None:
    assert header_of(HEADERS | MESSAGE_ID, table(b"\x01aZ") + short(b"m-1")).properties.message_id == "m-1"


@pytest.mark.parametrize("depth", [DEEPEST + 1, 10_000])
def test_headers_that_are_too_deep_are_not_followed(depth: int) -> None:
    nested = table(b"")
    for _ in range(depth):
        nested = table(b"\x01aF" + nested)
    assert "nested" in problem_of(header_of(HEADERS, nested))


@pytest.mark.parametrize("text", [b"soon", b"nan", b"-1", b"inf", b"\xff"])
def test_a_time_to_live_that_is_no_duration_is_none(text: bytes) -> None:
    properties = header_of(EXPIRATION, short(text)).properties
    assert properties.expiration is None
    assert "expiration" in (why_unreadable(properties.headers) or "")


def test_a_delivery_mode_that_amqp_does_not_have_is_none() -> None:
    assert header_of(DELIVERY_MODE, b"\x07").properties.delivery_mode is None


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (1_795_500_000, datetime.fromtimestamp(1_795_500_000, UTC)),
        (1_795_500_000_000, datetime.fromtimestamp(1_795_500_000, UTC)),
        (1_795_500_000_000_000_000, END_OF_TIME),
        (2**64 - 1, END_OF_TIME),
    ],
)
def test_any_timestamp_has_a_time(value: int, time: datetime) -> None:
    raw = struct.pack(">Q", value)
    assert header_of(TIMESTAMP, raw).properties.timestamp == time
    assert header_of(HEADERS, table(b"\x01tT" + raw)).properties.headers == {"t": time}


def test_a_routing_key_that_is_no_text_is_read_as_text_that_can_be_written() -> None:
    payload = struct.pack(">I", 0x003C003C) + short(b"tag") + struct.pack(">QB", 7, 0)
    payload += short(b"events") + short(b"heartbeat." + b"\xff" * 245)
    whole = struct.pack(">BHI", 1, 1, len(payload)) + payload + b"\xce"
    deliver = frame.unmarshal(whole)[2]
    assert isinstance(deliver, Basic.Deliver)
    assert (deliver.delivery_tag, deliver.exchange) == (7, "events")
    assert deliver.routing_key is not None
    assert deliver.routing_key.startswith(r"heartbeat.\xff\xff")
    assert len(deliver.routing_key.encode()) <= 255


def is_text(value: Any) -> bool:
    """Whether a log, a database and JSON take a property."""
    orjson.dumps(plain(value), default=str)
    return True


VALUES = st.recursive(
    st.one_of(
        st.binary(max_size=12).map(lambda raw: b"S" + table(raw)),
        st.binary(max_size=12).map(lambda raw: b"x" + table(raw)),
        st.binary(min_size=8, max_size=8).flatmap(
            lambda raw: st.sampled_from([b"l", b"T", b"d"]).map(lambda t: t + raw)
        ),
        st.binary(min_size=5, max_size=5).map(lambda raw: b"D" + raw),
        st.binary(min_size=4, max_size=4).map(lambda raw: b"f" + raw),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: b"A" + table(b"".join(parts))),
        st.lists(st.tuples(st.binary(max_size=4), inner), max_size=3).map(
            lambda parts: b"F" + table(b"".join(short(name) + value for name, value in parts))
        ),
    ),
    max_leaves=6,
)


@given(flags=st.integers(0, 2**16 - 1).map(lambda flags: flags & 0xFFFC), raw=st.binary(max_size=300))
def test_any_bytes_are_read_and_can_be_sent_on(flags: int, raw: bytes) -> None:
    properties = header_of(flags, raw).properties
    assert all(is_text(getattr(properties, name)) for name in properties.__slots__)
    assert len(properties.marshal()) < MOST_PROPERTY_BYTES


@given(values=st.lists(st.tuples(st.binary(max_size=9), VALUES), max_size=5))
def test_any_table_is_read_and_can_be_sent_on(values: list[tuple[bytes, bytes]]) -> None:
    raw = b"".join(short(name) + value for name, value in values)
    properties = header_of(HEADERS, table(raw)).properties
    assert is_text(properties.headers)
    message = Message(b"", headers=properties.headers)
    assert "x-keyway-left-out" not in sendable(message, otherwise={}).headers


def test_what_is_kept_of_large_properties_is_bounded() -> None:
    header = header_of(HEADERS, table(b"\x01aZ" + b"x" * 100_000))
    assert len(mark_of(header)["properties"]) == MOST_KEPT_BYTES

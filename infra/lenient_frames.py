"""Frames of RabbitMQ whose bytes another peer chose, decoded whatever they are.

RabbitMQ passes on ids, addresses, types and headers as it gets them. pamqp refuses what is not UTF-8, and
much else, while aiormq reads the connection: that closes it for everybody, the message comes again, and
closes the next one. Here nothing of that kind raises. A delivery whose properties can't be read arrives with
its body and the header `x-keyway-undecodable`, which says why and holds the bytes. Text has backslash escapes
for bytes that are none, so that no lone surrogate reaches a log or a database.
"""

import struct
from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import Any, Final

from pamqp import decode, encode, frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from contracts import names
from infra.field_tables import UnreadableTableError, read_table, timestamp

#: The most bytes of properties that are kept beside what could be read of them.
MOST_KEPT_BYTES: Final = 8192
#: AMQP's short strings have at most so many bytes.
LONGEST_SHORT_STRING: Final = 255

_START = struct.Struct(">HHQH")
_LENGTH = struct.Struct(">I")
_DELIVERY_MODES = (1, 2)
#: Where nobody can say to whom an answer goes, none goes.
_ADDRESS = "reply_to"
_encode_table_value = encode.encode_table_value


def be_lenient() -> None:
    """Have pamqp read frames so, in this process; harmless to repeat."""
    frame._unmarshal_header_frame = _read_header  # noqa: SLF001  # pamqp has no other door
    decode.METHODS["shortstr"] = _short_string
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = _timestamp
    encode.encode_table_value = _table_value


def _read_header(frame_data: bytes) -> ContentHeader:
    class_id, weight, body_size, flags = _START.unpack_from(frame_data)
    header = ContentHeader(weight, body_size)
    header.class_id = class_id
    properties = header.properties
    problem = _read_properties(frame_data, flags, properties)
    if problem is not None:
        properties.headers = {
            **(properties.headers or {}),
            names.UNDECODABLE_HEADER: {
                "reason": problem,
                "properties": bytearray(frame_data[_START.size - 2 :][:MOST_KEPT_BYTES]),
            },
        }
    return header


def _read_properties(payload: bytes, flags: int, properties: Basic.Properties) -> str | None:
    """Read what can be read.

    Returns:
        What is wrong with the first that can't be read; None where all can.
    """
    problem = None
    at = _START.size
    try:
        for name, kind in _layout(flags):
            value: Any
            if kind == "shortstr":
                end = at + 1 + payload[at]
                value, flaw = _text(payload[at + 1 : end])
                at = end
                if at > len(payload):
                    return "the properties end too early"
                if name == "expiration" and not _is_duration(value):
                    value, flaw = None, "is no number of milliseconds"
                if flaw is not None:
                    problem = problem or f"{name} {flaw}"
                    value = None if name == _ADDRESS else value
            elif kind == "table":
                end = at + 4 + _LENGTH.unpack_from(payload, at)[0]
                try:
                    value, at = read_table(payload, at)
                except UnreadableTableError as error:
                    problem = problem or f"the headers can't be read: {error}"
                    value, at = {}, end
            elif kind == "timestamp":
                value, at = timestamp(payload, at), at + 8
            else:
                value, at = payload[at], at + 1
                if name == "delivery_mode" and value not in _DELIVERY_MODES:
                    problem, value = problem or "delivery_mode is neither 1 nor 2", None
            setattr(properties, name, value)
    except (struct.error, IndexError):
        return problem or "the properties end too early"
    return problem


@lru_cache(512)
def _layout(flags: int) -> tuple[tuple[str, str], ...]:
    """The properties that are there, in their order, and the type of each."""
    return tuple(
        (name, Basic.Properties.amqp_type(name))
        for name in Basic.Properties.__slots__
        if flags & Basic.Properties.flags[name]
    )


def _text(raw: bytes) -> tuple[str, str | None]:
    """A short string, and what is wrong with it; it can be written again."""
    try:
        return raw.decode(), None
    except UnicodeDecodeError:
        escaped = raw.decode(errors="backslashreplace").encode()[:LONGEST_SHORT_STRING]
        return escaped.decode(errors="ignore"), "is not UTF-8"


def _is_duration(text: str) -> bool:
    try:
        milliseconds = float(text)
    except ValueError:
        return False
    return isfinite(milliseconds) and milliseconds >= 0


def _short_string(value: bytes) -> tuple[int, str]:
    length = value[0] if value else 0
    if len(value) <= length:
        raise ValueError("a short string ends too early")
    return length + 1, _text(value[1 : length + 1])[0]


def _timestamp(value: bytes) -> tuple[int, datetime]:
    try:
        return 8, timestamp(value, 0)
    except struct.error:
        raise ValueError("a timestamp ends too early") from None


def _table_value(value: Any) -> bytes:
    """Encode a header's value; a float in 64 bits, since pamqp's 32 can't hold each."""
    if isinstance(value, float):
        return b"d" + encode.double(value)
    return _encode_table_value(value)

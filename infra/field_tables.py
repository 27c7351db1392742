"""Field tables of AMQP, as RabbitMQ passes them on: any publisher chooses their bytes.

Every value that is read here can be written again: text that is not UTF-8 becomes a `bytearray`, a decimal
that AMQP's libraries can't write becomes text.
"""

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

#: How deep tables and arrays may be nested.
DEEPEST: Final = 32
#: The most values of a table, with those of the tables and arrays in it.
MOST_VALUES: Final = 1000
#: The calendar's end stands for every time after it.
END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)
#: Timestamps above this count milliseconds, those below it seconds (2106 is the last year of 32 bits).
LATEST_IN_SECONDS: Final = 0xFFFFFFFF
#: The largest decimal that pamqp writes.
LARGEST_DECIMAL: Final = 2**31 - 1

_LENGTH = struct.Struct(">I")
_TIME = struct.Struct(">Q")
_DECIMAL = struct.Struct(">BI")
_NUMBERS: Final = {
    ord(tag): struct.Struct(form)
    for tag, form in {
        "b": ">b",
        "B": ">B",
        "s": ">h",
        "u": ">H",
        "I": ">i",
        "i": ">I",
        "l": ">q",
        "L": ">q",
        "f": ">f",
        "d": ">d",
    }.items()
}
_TEXT, _BYTES, _TABLE, _ARRAY, _MOMENT = (ord(tag) for tag in "SxFAT")
_BOOLEAN, _DECIMAL_NUMBER, _VOID, _OTHER_VOID = ord("t"), ord("D"), ord("V"), 0


class UnreadableTableError(ValueError):
    """What is wrong with a table."""


def read_table(data: bytes, start: int) -> tuple[dict[str, Any], int]:
    """Read a table.

    Args:
        data: where it is in.
        start: where its length stands.

    Returns:
        The table, and where it ends.

    Raises:
        UnreadableTableError: it is malformed, too deep or too large.
    """
    try:
        return _Reader(data).table(start, len(data), 0)
    except (struct.error, IndexError):
        raise UnreadableTableError("they end too early") from None


def timestamp(data: bytes, start: int) -> datetime:
    """Read a timestamp; one beyond the calendar is the calendar's end.

    Raises:
        struct.error: there are too few bytes.
    """
    seconds: float = _TIME.unpack_from(data, start)[0]
    if seconds > LATEST_IN_SECONDS:
        seconds /= 1000
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return END_OF_TIME


class _Reader:
    __slots__ = ("_data", "_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MOST_VALUES

    def table(self, start: int, limit: int, depth: int) -> tuple[dict[str, Any], int]:
        at, end = self._bounds(start, limit, depth)
        table: dict[str, Any] = {}
        while at < end:
            key_at = at + 1
            at = key_at + self._data[at]
            try:
                key = self._data[key_at:at].decode()
            except UnicodeDecodeError:
                raise UnreadableTableError("a name is not UTF-8") from None
            table[key], at = self._value(at, end, depth)
        return table, end

    def _array(self, start: int, limit: int, depth: int) -> tuple[list[Any], int]:
        at, end = self._bounds(start, limit, depth)
        array: list[Any] = []
        while at < end:
            value, at = self._value(at, end, depth)
            array.append(value)
        return array, end

    def _bounds(self, start: int, limit: int, depth: int) -> tuple[int, int]:
        if depth > DEEPEST:
            raise UnreadableTableError(f"they are nested more than {DEEPEST} deep")
        at = start + 4
        end = at + _LENGTH.unpack_from(self._data, start)[0]
        if end > limit:
            raise UnreadableTableError("they end too early")
        return at, end

    def _value(self, at: int, end: int, depth: int) -> tuple[Any, int]:
        self._left -= 1
        if self._left < 0:
            raise UnreadableTableError(f"they hold more than {MOST_VALUES} values")
        if at >= end:
            raise UnreadableTableError("they end too early")
        tag = self._data[at]
        at += 1
        value: Any
        if (number := _NUMBERS.get(tag)) is not None:
            value, at = number.unpack_from(self._data, at)[0], at + number.size
        elif tag in {_TEXT, _BYTES}:
            value, at = self._blob(at, end, is_text=tag == _TEXT)
        elif tag == _TABLE:
            value, at = self.table(at, end, depth + 1)
        elif tag == _ARRAY:
            value, at = self._array(at, end, depth + 1)
        elif tag == _MOMENT:
            value, at = timestamp(self._data, at), at + _TIME.size
        elif tag == _BOOLEAN:
            value, at = self._data[at] != 0, at + 1
        elif tag == _DECIMAL_NUMBER:
            value, at = _decimal(*_DECIMAL.unpack_from(self._data, at)), at + _DECIMAL.size
        elif tag in {_VOID, _OTHER_VOID}:
            value = None
        else:
            raise UnreadableTableError(f"there is no type {bytes([tag])!r}")
        if at > end:
            raise UnreadableTableError("they end too early")
        return value, at

    def _blob(self, start: int, end: int, *, is_text: bool) -> tuple[str | bytearray, int]:
        at = start + 4
        after = at + _LENGTH.unpack_from(self._data, start)[0]
        if after > end:
            raise UnreadableTableError("they end too early")
        blob = self._data[at:after]
        if is_text:
            try:
                return blob.decode(), after
            except UnicodeDecodeError:
                pass
        return bytearray(blob), after


def _decimal(places: int, digits: int) -> Decimal | str:
    number = Decimal(digits).scaleb(-places)
    return number if digits <= LARGEST_DECIMAL else str(number)

"""AMQP timestamps beyond Python's calendar, which any publisher may send.

pamqp raises at them while it reads a frame, which closes the connection; the message comes again, and closes
the next one. Here they are read as the calendar's end.
"""

from datetime import UTC, datetime

from pamqp import decode

SIZE = 8
_decode = decode.timestamp


def timestamp(value: bytes) -> tuple[int, datetime]:
    """Decode a timestamp: the bytes that it takes, and its time.

    Raises:
        ValueError: there are too few bytes.
    """
    try:
        return _decode(value)
    except (ValueError, OverflowError, OSError):
        if len(value) < SIZE:
            raise
        return SIZE, datetime.max.replace(tzinfo=UTC)


def be_lenient() -> None:
    """Have pamqp decode timestamps so, in this process; harmless to repeat."""
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = timestamp

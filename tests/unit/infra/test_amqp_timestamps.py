"""Timestamps that no calendar has are read all the same."""

import struct
from datetime import UTC, datetime

import pytest
from pamqp import decode

from infra.amqp_timestamps import be_lenient, timestamp

END = datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (1_795_500_000, datetime.fromtimestamp(1_795_500_000, UTC)),
        (1_795_500_000_000_000_000, END),
        (2**63 - 1, END),
        (2**64 - 1, END),
    ],
)
def test_any_timestamp_has_a_time(value: int, time: datetime) -> None:
    assert timestamp(struct.pack(">Q", value)) == (8, time)


def test_too_few_bytes_are_none() -> None:
    with pytest.raises(ValueError, match="unpack"):
        timestamp(b"\0" * 7)


def test_a_table_and_a_property_are_decoded_so() -> None:
    be_lenient()
    odd = struct.pack(">Q", 2**63 - 1)
    assert decode.by_type(odd, "timestamp") == (8, END)
    table = b"\x01t" + b"T" + odd
    assert decode.field_table(struct.pack(">I", len(table)) + table)[1] == {"t": END}

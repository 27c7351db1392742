"""Server-sent events: what browsers read in a stream is what comes out, however it is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.generation.event_stream import EventStream

STREAMS = [
    (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
    (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
    (b"data: a\ndata: b\n\n", [b"a\nb"]),
    (b"data\n\n", [b""]),
    (b"event: x\nid: 1\nretry: 5\n: hello\ndata: a\n\n", [b"a"]),
    (b"event: x\n\n: ping\n\n\n\n", []),
    (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    (b"data: \xef\xbb\xbf\n\n", [b"\xef\xbb\xbf"]),
    (b"data: a\n", []),
    (b"data: a", []),
    (b"data: \xff\x00\n\n", [b"\xff\x00"]),
    (b"", []),
]


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_a_stream_is_read_as_browsers_read_it(stream: bytes, events: list[bytes]) -> None:
    assert list(EventStream().feed(stream)) == events


@given(st.sampled_from(STREAMS), st.data())
def test_where_a_stream_is_cut_makes_no_difference(
    case: tuple[bytes, list[bytes]], data: st.DataObject
) -> None:
    stream, events = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    parts = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    reader = EventStream()
    assert [event for part in parts if part for event in reader.feed(part)] == events

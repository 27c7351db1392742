"""Chunks on their way: numbered, marked where they start again, and kept for a repeat."""

import json
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import GenerationChunk
from tests.builders import make_envelope
from workers.generation.chunks import Chunks, pack, unpacked
from workers.generation.reading import Envelope

if TYPE_CHECKING:
    from workers.generation.replies import Replies


class Sent:
    """Takes chunks in place of the broker."""

    def __init__(self) -> None:
        self.chunks: list[GenerationChunk] = []

    async def chunk(self, _: Envelope, chunk: bytes) -> None:
        self.chunks.append(GenerationChunk.model_validate_json(chunk))


def new_chunks(sent: Sent, *, restarted: bool = False) -> Chunks:
    return Chunks(cast("Replies", sent), make_envelope(), restarted=restarted)


async def test_chunks_are_numbered_from_zero_and_not_marked() -> None:
    sent = Sent()
    chunks = new_chunks(sent)
    chunks.begin()
    for number in range(3):
        await chunks.send({"n": number})
    assert [(c.index, c.data, c.restarted) for c in sent.chunks] == [(n, {"n": n}, False) for n in range(3)]


async def test_only_the_first_chunk_after_a_restart_is_marked() -> None:
    sent = Sent()
    chunks = new_chunks(sent)
    chunks.begin()
    await chunks.send({"n": 0})
    chunks.begin()
    for number in range(2):
        await chunks.send({"n": number})
    assert [(c.index, c.restarted) for c in sent.chunks] == [(0, False), (0, True), (1, False)]


async def test_a_first_try_that_sent_nothing_is_no_restart() -> None:
    sent = Sent()
    chunks = new_chunks(sent)
    chunks.begin()
    chunks.begin()
    await chunks.send({})
    assert [c.restarted for c in sent.chunks] == [False]


async def test_another_workers_chunks_may_have_been_seen() -> None:
    sent = Sent()
    chunks = new_chunks(sent, restarted=True)
    chunks.begin()
    await chunks.send({})
    assert [c.restarted for c in sent.chunks] == [True]


async def test_what_is_kept_is_what_the_last_try_sent_and_can_be_sent_again() -> None:
    sent, again = Sent(), Sent()
    chunks = new_chunks(sent)
    chunks.begin()
    await chunks.send({"cut": True})
    chunks.begin()
    for number in range(3):
        await chunks.send({"n": number, "text": "line\nbreak"})
    packed = chunks.packed()
    assert packed is not None
    await new_chunks(again, restarted=True).repeat(packed)
    assert [c.data for c in again.chunks] == [c.data for c in sent.chunks[1:]]
    assert [c.restarted for c in again.chunks] == [True, False, False]


async def test_a_stream_that_is_too_long_to_be_kept_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.generation.chunks.MOST_KEPT_BYTES", 20)
    chunks = new_chunks(Sent())
    chunks.begin()
    await chunks.send({"short": 1})
    assert chunks.packed()
    await chunks.send({"text": "x" * 20})
    assert chunks.packed() is None


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), max_size=5))
def test_what_is_packed_is_unpacked(documents: list[dict[str, Any]]) -> None:
    chunks = [json.dumps(document).encode() for document in documents]
    assert unpacked(pack(chunks)) == chunks

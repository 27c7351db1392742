"""Each chunk once, in order, and a new start from 0."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.chunk_order import ChunkOrder
from contracts.errors import BrokenStreamError
from contracts.messages import GenerationChunk


def chunk(index: int, *, restarted: bool = False) -> GenerationChunk:
    return GenerationChunk(request_id="s-1", index=index, data={}, restarted=restarted)


@given(st.integers(1, 20), st.data())
def test_repeats_are_dropped_wherever_they_come(count: int, data: st.DataObject) -> None:
    order, passed = ChunkOrder(), []
    for index in range(count):
        for repeat in data.draw(st.lists(st.integers(0, index), max_size=3)):
            if repeat < index:
                assert not order.admits(chunk(repeat))
        if order.admits(chunk(index)):
            passed.append(index)
    assert passed == list(range(count))


@given(st.integers(0, 20), st.integers(1, 20))
def test_a_gap_is_an_error(seen: int, gap: int) -> None:
    order = ChunkOrder()
    for index in range(seen):
        order.admits(chunk(index))
    with pytest.raises(BrokenStreamError, match=f"chunk {seen} of request s-1 is missing"):
        order.admits(chunk(seen + gap))


@pytest.mark.parametrize("seen", [0, 1, 5])
def test_a_new_start_counts_from_0_however_often(seen: int) -> None:
    order = ChunkOrder()
    for index in range(seen):
        order.admits(chunk(index))
    for _ in range(2):
        assert order.admits(chunk(0, restarted=True))
        assert order.admits(chunk(1))
        assert not order.admits(chunk(1))
    assert order.expected == 2

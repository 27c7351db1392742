"""Which deliveries may be acknowledged together."""

from hypothesis import given
from hypothesis import strategies as st

from workers.accounting.settled import SettledTags

#: All tags of a channel, in the order in which they are settled, cut into lots.
LOTS = st.integers(1, 40).flatmap(
    lambda last: st.tuples(
        st.permutations(range(1, last + 1)), st.lists(st.integers(1, last), max_size=10).map(sorted)
    )
)


@given(LOTS)
def test_nothing_beyond_a_delivery_that_is_not_settled_is_acknowledged(
    lots: tuple[list[int], list[int]],
) -> None:
    order, cuts = lots
    tags, settled, acknowledged = SettledTags(), set[int](), 0
    for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
        lot = order[start:end]
        settled |= set(lot)
        up_to = tags.settle(lot)
        contiguous = next(tag for tag in range(len(order) + 1) if tag + 1 not in settled)
        assert up_to == (contiguous if contiguous > acknowledged else None)
        acknowledged = contiguous
    assert acknowledged == len(order)


def test_what_was_held_back_is_acknowledged_with_what_it_waited_for() -> None:
    tags = SettledTags()
    assert tags.settle([1, 2, 4, 5]) == 2
    assert tags.settle([7]) is None
    assert tags.settle([3]) == 5
    assert tags.settle([6]) == 7

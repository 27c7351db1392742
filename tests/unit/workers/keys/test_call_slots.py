"""The bound on calls in flight: never passed, and shared in turns."""

from collections import Counter
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from workers.keys.call_slots import CallSlots

MANY = 1000


def nothing() -> None:
    """Wake nobody."""


def test_there_is_no_bound_where_none_is_given() -> None:
    assert CallSlots().take("bot", MANY, nothing) == MANY


def test_slots_that_come_free_go_round_among_those_who_wait() -> None:
    slots = CallSlots(2)
    woken: list[str] = []

    def take(bot: str, wanted: int) -> int:
        return slots.take(bot, wanted, partial(woken.append, bot))

    assert take("busy", MANY) == 2
    assert [take("other", 2), take("third", 1)] == [0, 0]
    turns = []
    for _ in range(6):
        slots.give(1)
        turns.append(woken.pop())
        assert take(turns[-1], 1 if turns[-1] == "third" else MANY) == 1
    assert turns == ["busy", "other", "third", "busy", "other", "busy"]


def test_a_slot_that_is_promised_is_nobody_elses() -> None:
    slots = CallSlots(1)
    assert slots.take("busy", 1, nothing) == 1
    assert slots.take("other", 1, nothing) == 0
    slots.give(1)
    assert (slots.has_one_for("busy"), slots.has_one_for("other")) == (False, True)
    assert slots.take("busy", 1, nothing) == 0
    assert slots.take("other", 1, nothing) == 1


def test_who_leaves_the_line_passes_on_what_was_promised() -> None:
    slots = CallSlots(1)
    woken: list[str] = []
    assert slots.take("busy", 1, nothing) == 1
    for bot in ("waits for a key", "next"):
        assert slots.take(bot, 1, partial(woken.append, bot)) == 0
    slots.give(1)
    slots.leave("waits for a key")
    assert woken == ["waits for a key", "next"]
    assert slots.take("next", 1, nothing) == 1
    slots.leave("next")
    slots.give(1)
    assert slots.free == 1


bots = st.sampled_from(["a", "b", "c"])


@given(
    most=st.integers(1, 5),
    steps=st.lists(st.one_of(st.tuples(bots, st.integers(1, 4)), st.tuples(bots, st.sampled_from([0, -1])))),
)
def test_the_bound_is_never_passed_and_no_slot_is_lost(most: int, steps: list[tuple[str, int]]) -> None:
    slots, held = CallSlots(most), Counter[str]()
    for bot, step in steps:
        if step > 0:
            held[bot] += slots.take(bot, step, nothing)
        elif step == 0:
            slots.leave(bot)
        elif held[bot]:
            held[bot] -= 1
            slots.give(1)
        assert held.total() <= most
    slots.give(held.total())
    for bot in ("a", "b", "c"):
        slots.leave(bot)
    assert slots.free == most

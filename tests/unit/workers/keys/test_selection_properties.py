"""Selection, held for any keys and any asks: limits, order, and that nobody is forgotten."""

import math

from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Outcome
from tests.builders import NOW, make_key
from workers.keys.key import Key, Limits, WindowEntry
from workers.keys.limits import SPAN_S, chargeable, in_flight_limit, model_room
from workers.keys.reported import Reported
from workers.keys.selection import Ask, RefusalReason, plan

SECOND = int(NOW)
DAY = "2026-03-10"
LATER = NOW + 600
MODELS = st.sampled_from(["a", "b", None])


@st.composite
def any_key(draw: st.DrawFn, number: int) -> Key:
    return make_key(
        id=f"k{number}",
        tier=draw(st.integers(0, 1)),
        status=draw(st.sampled_from(["active", "active", "active", "exhausted", "error", "disabled"])),
        status_until=draw(st.none() | st.floats(NOW - 9, NOW + 900)),
        cause=draw(st.sampled_from([None, "refused", "failing", "quota", "day"])),
        probe_at=draw(st.none() | st.floats(NOW - 9, NOW + 900)),
        ramp_since=draw(st.sampled_from([0.0, NOW, NOW - 12])),
        reported=draw(
            st.dictionaries(
                st.sampled_from(["a", "b", ""]),
                st.builds(
                    Reported,
                    st.none() | st.integers(1, 20),
                    st.none() | st.integers(1, 200),
                    st.floats(NOW - 9, NOW + 900),
                    st.integers(0, 9),
                    st.integers(0, 99),
                    st.just(NOW - 20),
                    st.just(NOW + 40),
                ),
                max_size=2,
            )
        ),
        cooled_until=draw(st.sampled_from([0.0, NOW, NOW + 5, NOW + 900])),
        cool_reason=draw(st.none() | st.sampled_from(list(Outcome))),
        denied_models=draw(st.dictionaries(st.sampled_from("ab"), st.floats(NOW - 9, NOW + 9), max_size=1)),
        limits=Limits(*draw(st.tuples(*[st.none() | st.integers(1, 200)] * 4))),
        window=(
            WindowEntry(
                SECOND - draw(st.integers(0, SPAN_S - 1)),
                draw(st.integers(0, 9)),
                draw(st.integers(0, 150)),
                draw(st.sampled_from(["a", "b", ""])),
            ),
        ),
        day=DAY,
        day_tokens=draw(st.integers(0, 150)),
        held_calls=draw(st.integers(0, 3)),
        held_tokens=draw(st.integers(0, 50)),
        failures_in_a_row=draw(st.integers(0, 6)),
        error_rate=draw(st.floats(0, 1)),
        last_used_at=draw(st.floats(0, NOW)),
    )


KEYS = st.integers(0, 4).flatmap(lambda count: st.tuples(*(any_key(number) for number in range(count))))
ASKS = st.lists(
    st.builds(
        Ask,
        model=MODELS,
        tokens=st.integers(0, 300),
        deadline=st.floats(NOW + 0.1, LATER),
        avoid=st.frozensets(st.sampled_from(["k0", "k1"])),
        patience_until=st.just(math.inf) | st.floats(NOW - 1, NOW + 20),
    ),
    max_size=12,
)


@given(ASKS, KEYS)
def test_no_key_is_taken_beyond_what_it_may(asks: list[Ask], keys: tuple[Key, ...]) -> None:
    by_id = {key.id: key for key in keys}
    for key_id, indices in plan(asks, keys, NOW).reserve.items():
        key, calls = by_id[key_id], len(indices)
        assert key.is_usable(NOW)
        assert key.cooled_until <= NOW
        per_minute, tokens_per_minute, tokens_per_day, in_flight = (
            math.inf if limit is None else limit
            for limit in (
                key.limits.requests_per_minute,
                key.limits.tokens_per_minute,
                key.limits.tokens_per_day,
                key.limits.max_in_flight,
            )
        )
        charged = [chargeable(key, asks[index].tokens, asks[index].model, NOW) for index in indices]
        assert not any(key.denied_models.get(str(asks[index].model), 0) > NOW for index in indices)
        assert key.window[0].requests + calls <= per_minute
        assert key.window[0].tokens + sum(charged) <= tokens_per_minute
        assert key.day_tokens + key.held_tokens + sum(charged) <= tokens_per_day
        assert key.held_calls + calls <= min(in_flight, in_flight_limit(key, NOW))
        for model in {asks[index].model for index in indices}:
            of_model = [index for index in indices if asks[index].model == model]
            left = model_room(key, model, NOW)
            assert len(of_model) <= left.requests


@given(ASKS, KEYS)
def test_every_ask_is_reserved_refused_put_off_or_looked_at_again(
    asks: list[Ask], keys: tuple[Key, ...]
) -> None:
    planned = plan(asks, keys, NOW)
    reserved = [index for indices in planned.reserve.values() for index in indices]
    settled = reserved + list(planned.refuse) + list(planned.put_off)
    waiting = set(range(len(asks))) - set(settled)
    assert len(settled) == len(set(settled))
    assert (planned.look_again_at is None) is not bool(waiting)
    if planned.look_again_at is not None:
        assert NOW <= planned.look_again_at <= min(asks[index].deadline for index in waiting)
    # Nobody waits for a quota, of which nobody knows when it is back.
    lacks_quota = any(key.lacks_quota(NOW) for key in keys)
    for index, refusal in planned.refuse.items():
        is_exhausted = lacks_quota or refusal.reason is RefusalReason.KEYS_EXHAUSTED
        earliest = NOW if is_exhausted else asks[index].deadline
        assert refusal.retry_at is None or refusal.retry_at >= earliest
    for index, later in planned.put_off.items():
        assert max(NOW, asks[index].patience_until) <= max(NOW, later.at) <= asks[index].deadline


@st.composite
def busy_key(draw: st.DrawFn, number: int) -> Key:
    """A key that has room for a small call at once, and for a large one in a while."""
    return make_key(
        id=f"k{number}",
        denied_models=draw(st.sampled_from([{}, {"a": LATER}, {"b": LATER}])),
        limits=Limits(tokens_per_minute=100),
        window=(WindowEntry(SECOND - draw(st.integers(0, SPAN_S - 1)), 1, draw(st.integers(40, 60))),),
    )


BUSY_KEYS = st.integers(1, 2).flatmap(lambda count: st.tuples(*(busy_key(number) for number in range(count))))
LARGE_AND_SMALL_ASKS = st.lists(
    st.builds(
        Ask,
        model=MODELS,
        tokens=st.sampled_from([80, 10]),
        deadline=st.just(LATER),
        patience_until=st.just(math.inf) | st.floats(NOW - 1, NOW + 20),
    ),
    min_size=2,
    max_size=6,
)
#: Anything, and what makes large asks wait before small ones.
QUEUES = st.tuples(ASKS, KEYS) | st.tuples(LARGE_AND_SMALL_ASKS, BUSY_KEYS)


def could_use(ask: Ask, keys: tuple[Key, ...]) -> set[str]:
    """Ids of the keys that could serve the ask, now or later."""
    return {
        key.id
        for key in keys
        if not key.is_refused(NOW) and (ask.model is None or key.denied_models.get(ask.model, 0) <= NOW)
    }


@given(QUEUES)
def test_nobody_is_served_by_a_key_that_one_who_waits_before_could_use(
    queue: tuple[list[Ask], tuple[Key, ...]],
) -> None:
    asks, keys = queue
    planned = plan(asks, keys, NOW)
    served_by = {index: key_id for key_id, indices in planned.reserve.items() for index in indices}
    kept: set[str] = set()
    for index, ask in enumerate(asks):
        if index in served_by:
            assert served_by[index] not in kept
        elif index not in planned.refuse:
            kept |= could_use(ask, keys)


@given(QUEUES)
def test_while_nothing_can_be_reserved_nobody_looks_again_at_once(
    queue: tuple[list[Ask], tuple[Key, ...]],
) -> None:
    asks, keys = queue
    planned = plan(asks, keys, NOW)
    if not planned.reserve:
        assert planned.look_again_at is None or planned.look_again_at > NOW
        assert all(later.at > NOW for later in planned.put_off.values())


@given(QUEUES)
def test_who_is_held_back_brings_the_next_look_no_nearer(queue: tuple[list[Ask], tuple[Key, ...]]) -> None:
    asks, keys = queue
    planned = plan(asks, keys, NOW)
    reserved = {index for indices in planned.reserve.values() for index in indices}
    kept: set[str] = set()
    held_back = []
    for index, ask in enumerate(asks):
        if index in reserved or index in planned.refuse:
            continue
        if could_use(ask, keys) <= kept:
            held_back.append(index)
        kept |= could_use(ask, keys)
    others = plan([ask for index, ask in enumerate(asks) if index not in held_back], keys, NOW)
    first = min(
        [
            others.look_again_at or math.inf,
            *(later.at for later in others.put_off.values()),
            *(asks[index].deadline for index in held_back),
        ],
        default=math.inf,
    )
    assert (planned.look_again_at or math.inf) >= first
    assert all(planned.put_off[index].at >= first for index in held_back if index in planned.put_off)


@given(ASKS, KEYS)
def test_asks_for_a_model_are_served_in_their_order(asks: list[Ask], keys: tuple[Key, ...]) -> None:
    planned = plan(asks, keys, NOW)
    reserved = {index for indices in planned.reserve.values() for index in indices}
    waiting_for: set[str | None] = set()
    for index, ask in enumerate(asks):
        if index in reserved:
            assert ask.model not in waiting_for
        elif index not in planned.refuse:
            waiting_for.add(ask.model)

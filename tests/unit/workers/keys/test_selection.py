"""Selection: the right key for each ask, in the order of arrival, or the reason why there is none."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Outcome
from tests.builders import NOW, make_key
from workers.keys.key import Key, Limits, WindowEntry
from workers.keys.limits import SOON_S, SPAN_S
from workers.keys.reported import Reported
from workers.keys.selection import TOGETHER, Ask, Later, Plan, Refusal, RefusalReason, plan

SECOND = int(NOW)
DAY = "2026-03-10"
LATER = NOW + 600


def make_ask(tokens: int = 10, **changes: Any) -> Ask:
    return Ask(**{"model": "gpt-4o-mini", "tokens": tokens, "deadline": LATER, **changes})


def used(requests: int, tokens: int = 0, ago: int = 0) -> tuple[WindowEntry, ...]:
    return (WindowEntry(SECOND - ago, requests, tokens),)


def chosen(planned: Plan, asks: int) -> list[str | None]:
    """For each ask its key's id, or None."""
    by_ask = {index: key_id for key_id, indices in planned.reserve.items() for index in indices}
    return [by_ask.get(index) for index in range(asks)]


def pick(*keys: Key, **ask: Any) -> str | None:
    return chosen(plan([make_ask(**ask)], keys, NOW), 1)[0]


BETTER_AND_WORSE = [
    ({}, {"status": "disabled"}),
    ({}, {"status": "error"}),
    ({}, {"status": "exhausted", "status_until": NOW + 1}),
    ({"status": "exhausted", "status_until": NOW}, {"status": "exhausted", "status_until": None}),
    ({"cooled_until": NOW}, {"cooled_until": NOW + 0.5}),
    ({}, {"denied_models": {"gpt-4o-mini": NOW + 1}}),
    ({"denied_models": {"gpt-4o-mini": NOW}}, {"denied_models": {"gpt-4o-mini": NOW + 1}}),
    ({}, {"limits": Limits(requests_per_minute=1), "window": used(1)}),
    ({}, {"limits": Limits(tokens_per_minute=10), "window": used(1, 1)}),
    ({}, {"limits": Limits(tokens_per_day=10), "day": DAY, "day_tokens": 1}),
    ({}, {"limits": Limits(tokens_per_day=10), "held_tokens": 1}),
    ({}, {"limits": Limits(max_in_flight=1), "held_calls": 1}),
    ({}, {"failures_in_a_row": 5, "held_calls": 1}),
    # All else equal: the least used, by the highest of its fractions.
    ({"limits": Limits(10), "window": used(1)}, {"limits": Limits(10), "window": used(2)}),
    ({"limits": Limits(100), "window": used(2)}, {"limits": Limits(10), "window": used(1)}),
    ({"limits": Limits(10, 100), "window": used(2, 10)}, {"limits": Limits(10, 100), "window": used(1, 50)}),
    (
        {"limits": Limits(tokens_per_day=100), "day": DAY, "day_tokens": 10},
        {"limits": Limits(tokens_per_day=100), "day": DAY, "day_tokens": 20},
    ),
    # As much used: the healthier, then the one with fewer calls under way, then the one that rested longest.
    ({"error_rate": 0.0, "latency_ms": 900.0}, {"error_rate": 0.4, "latency_ms": 100.0}),
    ({"latency_ms": 100.0}, {"latency_ms": 900.0}),
    ({"held_calls": 1}, {"held_calls": 2}),
    ({"last_used_at": NOW - 9}, {"last_used_at": NOW - 1}),
]


@pytest.mark.parametrize(("better", "worse"), BETTER_AND_WORSE)
@pytest.mark.parametrize("better_first", [True, False])
def test_the_better_key_is_taken_whatever_their_order(
    better: dict[str, Any], worse: dict[str, Any], better_first: bool
) -> None:
    keys = [make_key(id="better", **better), make_key(id="worse", **worse)]
    assert pick(*(keys if better_first else reversed(keys))) == "better"


def test_a_key_that_failed_the_request_is_taken_only_when_there_is_no_other() -> None:
    failed = make_key(id="failed")
    other = make_key(id="other", limits=Limits(10), window=used(9), error_rate=0.9)
    assert pick(failed, other, avoid=frozenset({"failed"})) == "other"
    assert pick(failed, avoid=frozenset({"failed"})) == "failed"


def test_a_denied_model_is_no_matter_for_another_model_or_for_none() -> None:
    key = make_key(denied_models={"o3": LATER})
    assert pick(key, model="gpt-4o-mini") == "key-1"
    assert pick(key, model=None) == "key-1"


REFUSALS = [
    ([], RefusalReason.NO_KEYS, None),
    ([{"status": "disabled"}, {"status": "error"}], RefusalReason.NO_USABLE_KEY, None),
    ([{"cooled_until": NOW + 60, "cool_reason": Outcome.AUTH_FAILED}], RefusalReason.NO_USABLE_KEY, None),
    ([{"denied_models": {"gpt-4o-mini": LATER + 1}}] * 2, RefusalReason.MODEL_UNAVAILABLE, None),
    (
        [{"denied_models": {"gpt-4o-mini": LATER + 1}}, {"status": "error"}],
        RefusalReason.MODEL_UNAVAILABLE,
        None,
    ),
    ([{"status": "exhausted"}], RefusalReason.KEYS_EXHAUSTED, None),
    (
        [{"status": "exhausted", "cause": "quota", "probe_at": NOW + at} for at in (60, 30)],
        RefusalReason.KEYS_EXHAUSTED,
        NOW + 30,
    ),
    (
        [{"cooled_until": NOW + 60, "cool_reason": Outcome.QUOTA_EXHAUSTED}],
        RefusalReason.KEYS_EXHAUSTED,
        NOW + 60,
    ),
    (
        [{"status": "error", "cause": "failing", "probe_at": LATER + 9}],
        RefusalReason.PROVIDER_FAILING,
        LATER + 9,
    ),
    (
        [{"status": "exhausted", "status_until": LATER + at} for at in (9, 3)],
        RefusalReason.KEYS_EXHAUSTED,
        LATER + 3,
    ),
    (
        [{"limits": Limits(tokens_per_day=10), "day": DAY, "day_tokens": 1}, {"status": "disabled"}],
        RefusalReason.KEYS_EXHAUSTED,
        NOW + 12 * 3600,
    ),
    ([{"cooled_until": LATER + 1}], RefusalReason.NO_CAPACITY, LATER + 1),
    (
        [{"cooled_until": LATER + 5}, {"status": "exhausted", "status_until": LATER + 3}],
        RefusalReason.NO_CAPACITY,
        LATER + 3,
    ),
]


@pytest.mark.parametrize(("keys", "reason", "retry_at"), REFUSALS)
def test_a_refusal_says_why_and_when_to_ask_again(
    keys: list[dict[str, Any]], reason: RefusalReason, retry_at: float | None
) -> None:
    planned = plan([make_ask()], [make_key(id=f"k{n}", **key) for n, key in enumerate(keys)], NOW)
    assert planned.refuse == {0: Refusal(reason, retry_at)}
    assert planned.reserve == {}
    assert planned.look_again_at is None


@pytest.mark.parametrize(
    ("key", "deadline", "look_again_at"),
    [
        ({"cooled_until": NOW + 7}, LATER, NOW + 7),
        ({"status": "error", "cause": "failing", "probe_at": NOW + 20}, LATER, NOW + 20),
        ({"cooled_until": NOW + 7}, NOW + 7, NOW + 7),
        ({"limits": Limits(1), "window": used(1, ago=40)}, LATER, NOW - 40 + SPAN_S),
        ({"limits": Limits(max_in_flight=1), "held_calls": 1}, LATER, NOW + 0.5),
        ({"limits": Limits(max_in_flight=1), "held_calls": 1}, NOW + 0.5, NOW + 0.5),
    ],
)
def test_an_ask_waits_while_room_may_come_before_its_deadline(
    key: dict[str, Any], deadline: float, look_again_at: float
) -> None:
    assert plan([make_ask(deadline=deadline)], [make_key(**key)], NOW) == Plan(look_again_at=look_again_at)


def test_a_large_ask_is_cut_to_the_limit_and_waits_for_an_empty_window() -> None:
    limits = Limits(tokens_per_minute=1000)
    assert pick(make_key(limits=limits), tokens=50_000) == "key-1"
    busy = make_key(limits=limits, window=used(1, 1, ago=10))
    assert plan([make_ask(50_000)], [busy], NOW).look_again_at == NOW - 10 + SPAN_S


def test_who_waits_is_not_overtaken_by_a_later_ask_for_the_same_model() -> None:
    key = make_key(limits=Limits(tokens_per_minute=100), window=used(1, 50))
    planned = plan([make_ask(40), make_ask(80), make_ask(5)], [key], NOW)
    assert chosen(planned, 3) == ["key-1", None, None]
    assert planned.refuse == {}


@pytest.mark.parametrize("model", ["gpt-4o-mini", "o3", None])
def test_who_waits_for_a_key_is_not_overtaken_on_it_whatever_the_model(model: str | None) -> None:
    key = make_key(limits=Limits(tokens_per_minute=100), window=used(1, 50, ago=10))
    planned = plan([make_ask(80), make_ask(50, model=model)], [key], NOW)
    assert planned == Plan(look_again_at=NOW - 10 + SPAN_S)


def test_who_waits_holds_nobody_back_from_a_key_that_it_can_not_use() -> None:
    full = make_key(id="full", limits=Limits(tokens_per_minute=100), window=used(1, 50, ago=10))
    other = make_key(id="other", denied_models={"gpt-4o-mini": LATER})
    planned = plan([make_ask(80), make_ask(model="o3")], [full, other], NOW)
    assert planned == Plan(reserve={"other": [1]}, look_again_at=NOW - 10 + SPAN_S)


def test_who_is_held_back_is_put_off_to_when_the_one_before_has_its_key() -> None:
    key = make_key(limits=Limits(tokens_per_minute=100), window=used(1, 50, ago=10))
    asks = [make_ask(80, patience_until=NOW), make_ask(10, patience_until=NOW)]
    free_at = Later(NOW - 10 + SPAN_S)
    assert plan(asks, [key], NOW) == Plan(put_off={0: free_at, 1: free_at})


def test_who_is_refused_holds_nobody_back() -> None:
    key = make_key(limits=Limits(tokens_per_minute=100), window=used(1, 50))
    planned = plan([make_ask(80, deadline=NOW + 1), make_ask(5)], [key], NOW)
    assert planned.refuse.keys() == {0}
    assert chosen(planned, 2) == [None, "key-1"]


@given(st.integers(1, 6), st.integers(1, 60), st.sampled_from([Limits(), Limits(100), Limits(100, 10_000)]))
def test_equal_keys_share_many_asks_evenly(keys: int, asks: int, limits: Limits) -> None:
    planned = plan([make_ask()] * asks, [make_key(id=f"k{n}", limits=limits) for n in range(keys)], NOW)
    shares = [len(planned.reserve.get(f"k{n}", [])) for n in range(keys)]
    assert sum(shares) == asks
    assert max(shares) - min(shares) <= (TOGETHER if limits == Limits() else 1)


def test_asks_that_arrive_together_stay_with_a_key_while_that_costs_it_next_to_nothing() -> None:
    keys = [make_key(id=f"k{n}", limits=Limits(10_000)) for n in range(3)]
    planned = plan([make_ask()] * (TOGETHER + 4), keys, NOW)
    assert sorted(map(len, planned.reserve.values())) == [4, TOGETHER]


def test_keys_are_used_in_proportion_to_their_limits() -> None:
    keys = [make_key(id="small", limits=Limits(20)), make_key(id="large", limits=Limits(60))]
    planned = plan([make_ask()] * 40, keys, NOW)
    assert Counter(chosen(planned, 40)) == {"small": 10, "large": 30}


def test_no_key_that_may_be_used_is_left_unused() -> None:
    keys = [make_key(id=f"k{n}", limits=Limits(10 * (n + 1)), latency_ms=100.0 * n) for n in range(5)]
    planned = plan([make_ask()] * 150, keys, NOW)
    assert {key_id: len(indices) for key_id, indices in planned.reserve.items()} == {
        "k0": 10,
        "k1": 20,
        "k2": 30,
        "k3": 40,
        "k4": 50,
    }


def test_an_ask_whose_patience_ends_before_there_is_room_is_put_off_and_those_behind_it_too() -> None:
    cooled = make_key(cooled_until=NOW + 30)
    asks = [make_ask(patience_until=NOW + 20), make_ask(patience_until=NOW + 20)]
    planned = plan(asks, [cooled], NOW)
    assert planned.put_off == {0: Later(NOW + 30), 1: Later(NOW + 30)}
    assert planned.look_again_at is None


def test_an_ask_waits_here_only_for_room_that_comes_within_its_patience() -> None:
    cooled = make_key(cooled_until=NOW + 5)
    assert plan([make_ask(patience_until=NOW + 5.5)], [cooled], NOW) == Plan(look_again_at=NOW + 5)
    assert plan([make_ask(patience_until=NOW + 5)], [cooled], NOW) == Plan(put_off={0: Later(NOW + 5)})


def test_an_ask_that_has_waited_long_enough_is_put_off_though_room_is_near() -> None:
    cooled = make_key(cooled_until=NOW + 1)
    assert plan([make_ask(patience_until=NOW)], [cooled], NOW).put_off == {0: Later(NOW + 1)}


def test_a_lower_tier_serves_only_while_the_one_above_has_no_room() -> None:
    first = make_key(id="first", tier=0, limits=Limits(requests_per_minute=2), window=())
    second = make_key(id="second", tier=1)
    planned = plan([make_ask() for _ in range(5)], [second, first], NOW)
    assert planned.reserve == {"first": [0, 1], "second": [2, 3, 4]}


def test_a_deadline_that_has_passed_is_refused_whatever_room_there_is() -> None:
    planned = plan([make_ask(deadline=NOW)], [make_key()], NOW)
    assert planned == Plan(refuse={0: Refusal(RefusalReason.DEADLINE_PASSED)})


def test_the_automations_own_cap_admits_the_first_and_looks_again_soon_for_the_rest() -> None:
    planned = plan([make_ask()] * 5, [make_key()], NOW, slots=2)
    assert planned == Plan(reserve={"key-1": [0, 1]}, look_again_at=NOW + SOON_S)
    assert plan([make_ask()], [make_key()], NOW, slots=0) == Plan(look_again_at=NOW + SOON_S)


def test_a_limit_that_the_provider_reports_for_a_model_binds_that_model_alone() -> None:
    reported = {"o3": Reported(requests_per_minute=2, tokens_per_minute=None, until=NOW + 60)}
    key = make_key(reported=reported, window=(WindowEntry(SECOND, 1, 10, "o3"),))
    planned = plan([make_ask(model="o3")] * 2, [key], NOW)
    assert planned.reserve == {"key-1": [0]}
    assert plan([make_ask(model="gpt-4o")] * 2, [key], NOW).reserve == {"key-1": [0, 1]}


def test_of_two_keys_the_one_is_taken_of_whose_model_the_provider_says_that_less_is_used() -> None:
    used_up = {"gpt-4o-mini": Reported(10, None, NOW + 60, 5, 0, NOW, NOW + 60)}
    keys = [make_key(id="shared", reported=used_up), make_key(id="own")]
    assert pick(*keys) == "own"
    assert pick(*reversed(keys)) == "own"

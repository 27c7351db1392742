"""Limits: exact in any rolling minute, whole again at midnight, and never waited for without end."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NOW, make_key
from workers.keys.key import Key, LeasedCall, Limits, WindowEntry
from workers.keys.limits import (
    CIRCUIT_FAILURES,
    OUTSIDE_LOOK_S,
    SOON_S,
    SPAN_S,
    UNLIMITED,
    available_at,
    chargeable,
    comes_back_at,
    in_flight_limit,
    is_spent,
    model_room,
    next_midnight,
    room,
    today,
    used_in_window,
    used_today,
    utilisation,
)
from workers.keys.reported import Reported

DAY = "2026-03-10"
SECOND = int(NOW)
MIDNIGHT = datetime(2026, 3, 11, tzinfo=UTC).timestamp()
#: How late after its reservation a call may start, in seconds (`attempts.STALE_S`).
LATEST_START_S = 2.0


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("now", "day", "midnight"),
    [
        ("2026-03-10T00:00:00Z", "2026-03-10", "2026-03-11T00:00:00Z"),
        ("2026-03-10T23:59:59.999Z", "2026-03-10", "2026-03-11T00:00:00Z"),
        ("2026-03-11T00:30:00+02:00", "2026-03-10", "2026-03-11T00:00:00Z"),
        ("2028-02-28T12:00:00Z", "2028-02-28", "2028-02-29T00:00:00Z"),
        ("2026-12-31T12:00:00Z", "2026-12-31", "2027-01-01T00:00:00Z"),
    ],
)
def test_a_day_is_a_utc_day(now: str, day: str, midnight: str) -> None:
    assert today(seconds(now)) == day
    assert next_midnight(seconds(now)) == seconds(midnight)


@pytest.mark.parametrize(
    ("limits", "tokens", "charged"),
    [
        (Limits(), 10_000, 10_000),
        (Limits(tokens_per_minute=1000), 999, 999),
        (Limits(tokens_per_minute=1000), 10_000, 1000),
        (Limits(tokens_per_day=500), 10_000, 500),
        (Limits(tokens_per_minute=1000, tokens_per_day=500), 10_000, 500),
        (Limits(requests_per_minute=1), 10_000, 10_000),
    ],
)
def test_an_estimate_is_cut_to_what_the_key_can_ever_admit(limits: Limits, tokens: int, charged: int) -> None:
    assert chargeable(make_key(limits=limits), tokens, None, NOW) == charged


def test_a_reservation_counts_for_the_window_and_its_guard() -> None:
    key = make_key(window=(WindowEntry(SECOND, 2, 50), WindowEntry(SECOND + 10, 1, 7)))
    assert used_in_window(key, NOW + 10) == (3, 57)
    assert used_in_window(key, NOW + SPAN_S - 0.001) == (3, 57)
    assert used_in_window(key, NOW + SPAN_S) == (1, 7)
    assert used_in_window(key, NOW + SPAN_S + 10) == (0, 0)


@pytest.mark.parametrize(("now", "used"), [(NOW, 80), (MIDNIGHT - 0.001, 80), (MIDNIGHT, 0)])
def test_tokens_of_yesterday_are_not_todays(now: float, used: int) -> None:
    assert used_today(make_key(day=DAY, day_tokens=80), now) == used


ROOMS = [
    ({}, 1_000_000, True),
    ({"limits": Limits(requests_per_minute=3), "window": (WindowEntry(SECOND, 2, 0),)}, 1, True),
    ({"limits": Limits(requests_per_minute=2), "window": (WindowEntry(SECOND, 2, 0),)}, 1, False),
    ({"limits": Limits(tokens_per_minute=100), "window": (WindowEntry(SECOND, 1, 60),)}, 40, True),
    ({"limits": Limits(tokens_per_minute=100), "window": (WindowEntry(SECOND, 1, 60),)}, 41, False),
    ({"limits": Limits(tokens_per_day=100), "day": DAY, "day_tokens": 60}, 40, True),
    ({"limits": Limits(tokens_per_day=100), "day": DAY, "day_tokens": 60}, 41, False),
    ({"limits": Limits(tokens_per_day=100), "day": DAY, "day_tokens": 50, "held_tokens": 10}, 41, False),
    ({"limits": Limits(tokens_per_day=100), "day": "2026-03-09", "day_tokens": 100}, 100, True),
    ({"limits": Limits(max_in_flight=2), "held_calls": 1}, 1, True),
    ({"limits": Limits(max_in_flight=2), "held_calls": 2}, 1, False),
    ({"failures_in_a_row": CIRCUIT_FAILURES, "held_calls": 0}, 1, True),
    ({"failures_in_a_row": CIRCUIT_FAILURES, "held_calls": 1}, 1, False),
    ({"failures_in_a_row": CIRCUIT_FAILURES - 1, "held_calls": 50}, 1, True),
]


@pytest.mark.parametrize(("changes", "tokens", "fits"), ROOMS)
def test_a_call_fits_only_within_every_limit(changes: dict[str, object], tokens: int, fits: bool) -> None:
    assert room(make_key(**changes), NOW).fits(tokens) is fits


def test_what_a_batch_takes_is_gone_for_the_rest_of_it() -> None:
    left = room(make_key(limits=Limits(tokens_per_minute=100)), NOW)
    left.take(60)
    assert left.fits(40)
    assert not left.fits(41)
    for limits in (Limits(requests_per_minute=2), Limits(max_in_flight=2)):
        left = room(make_key(limits=limits), NOW)
        left.take(1)
        assert left.fits(1)
        left.take(1)
        assert not left.fits(1)


def test_a_half_open_circuit_admits_one_call_at_a_time() -> None:
    failing = make_key(failures_in_a_row=CIRCUIT_FAILURES)
    assert in_flight_limit(failing, NOW) == 1
    assert in_flight_limit(replace(failing, limits=Limits(max_in_flight=8)), NOW) == 1
    assert in_flight_limit(make_key(limits=Limits(max_in_flight=8)), NOW) == 8
    assert in_flight_limit(make_key(), NOW) > 1_000_000


@pytest.mark.parametrize(
    ("since_s", "calls"), [(0, 1), (4.9, 1), (5, 2), (10, 4), (29, 32), (59.9, 2048), (60, UNLIMITED)]
)
def test_a_key_that_came_back_is_given_twice_as_many_calls_with_each_step(since_s: float, calls: int) -> None:
    assert in_flight_limit(make_key(ramp_since=NOW - since_s), NOW) == calls
    capped = make_key(ramp_since=NOW - since_s, limits=Limits(max_in_flight=3))
    assert in_flight_limit(capped, NOW) == min(3, calls)
    half_open = make_key(ramp_since=NOW - since_s, failures_in_a_row=CIRCUIT_FAILURES)
    assert in_flight_limit(half_open, NOW) == 1


def reporting(**changes: Any) -> Key:
    """A key of which the provider allows 10 requests and 1,000 tokens a minute of o3."""
    return make_key(
        reported={"o3": replace(Reported(10, 1000, NOW + 60), **changes)},
        window=(WindowEntry(SECOND, 4, 300, "o3"), WindowEntry(SECOND, 90, 9000, "gpt-4o")),
    )


def test_a_limit_that_the_provider_reports_for_a_model_counts_that_models_calls_alone() -> None:
    left = model_room(reporting(), "o3", NOW)
    assert (left.requests, left.tokens) == (6, 700)
    assert model_room(reporting(), "gpt-4o", NOW).requests > 1_000_000
    assert model_room(reporting(until=NOW), "o3", NOW).requests > 1_000_000
    assert chargeable(reporting(), 5000, "o3", NOW) == 1000
    assert chargeable(reporting(), 5000, "gpt-4o", NOW) == 5000


@pytest.mark.parametrize(
    ("later", "requests", "tokens"), [(0, 2, 200), (15, 3, 300), (59.99, 5, 600), (60, 6, 700)]
)
def test_what_others_use_of_a_reported_limit_fades_until_the_providers_reset(
    later: float, requests: int, tokens: int
) -> None:
    shared = reporting(
        outside_requests=4, outside_tokens=500, outside_since=NOW, outside_until=NOW + 60, until=NOW + 3600
    )
    left = model_room(shared, "o3", NOW + later)
    assert left.requests == requests
    assert left.tokens - tokens in range(-1, 126)


def test_a_model_without_room_is_looked_at_again_when_our_own_or_others_use_may_have_gone() -> None:
    full = replace(reporting(), window=(WindowEntry(SECOND - 20, 10, 0, "o3"),))
    assert available_at(full, 10, "o3", NOW) == NOW - 20 + SPAN_S
    assert available_at(full, 10, "gpt-4o", NOW) == NOW
    taken = reporting(outside_requests=6, outside_since=NOW, outside_until=NOW + 60, until=NOW + 3600)
    assert available_at(taken, 10, "o3", NOW) == NOW + OUTSIDE_LOOK_S


def test_a_spent_quota_comes_back_when_it_is_tried_next() -> None:
    key = make_key(status="exhausted", cause="quota", probe_at=NOW + 60, cooled_until=NOW + 30)
    assert comes_back_at(key, math.inf, NOW) == NOW + 60
    assert comes_back_at(key, NOW + 5, NOW) == NOW + 5
    assert comes_back_at(make_key(status="exhausted"), math.inf, NOW) == math.inf
    failing = make_key(status="error", cause="failing", cooled_until=NOW + 30)
    assert comes_back_at(failing, math.inf, NOW) == math.inf


@pytest.mark.parametrize(
    ("limits", "fraction"),
    [
        (Limits(), 0.0),
        (Limits(requests_per_minute=10), 0.2),
        (Limits(tokens_per_minute=100), 0.5),
        (Limits(tokens_per_day=1000), 0.7),
        (Limits(10, 100, 1000), 0.7),
        (Limits(10, 100, 1_000_000), 0.5),
        (Limits(tokens_per_minute=25), 2.0),
    ],
)
def test_utilisation_is_the_highest_fraction(limits: Limits, fraction: float) -> None:
    key = make_key(limits=limits, window=(WindowEntry(SECOND, 2, 50),), day=DAY, day_tokens=700)
    assert utilisation(key, room(key, NOW)) == pytest.approx(fraction, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "tokens", "spent"),
    [
        ({}, 10, False),
        ({"status": "exhausted"}, 10, True),
        ({"status": "exhausted", "status_until": NOW + 1}, 10, True),
        ({"status": "exhausted", "status_until": NOW}, 10, False),
        ({"limits": Limits(tokens_per_day=100), "day": DAY, "day_tokens": 90}, 10, False),
        ({"limits": Limits(tokens_per_day=100), "day": DAY, "day_tokens": 91}, 10, True),
        ({"limits": Limits(tokens_per_minute=5), "window": (WindowEntry(SECOND, 1, 5),)}, 5, False),
    ],
)
def test_a_key_is_spent_by_its_status_or_its_day_and_not_by_its_minute(
    changes: dict[str, object], tokens: int, spent: bool
) -> None:
    assert is_spent(make_key(**changes), tokens, NOW) is spent


ENTRIES = (WindowEntry(SECOND - 40, 1, 30), WindowEntry(SECOND - 20, 2, 50))


@pytest.mark.parametrize(
    ("changes", "tokens", "moment"),
    [
        ({}, 10, NOW),
        ({"cooled_until": NOW + 7}, 10, NOW + 7),
        ({"status": "exhausted", "status_until": NOW + 600}, 10, NOW + 600),
        ({"status": "exhausted"}, 10, math.inf),
        ({"status": "exhausted", "cause": "quota", "probe_at": NOW + 60}, 10, math.inf),
        ({"cooled_until": NOW + 60, "cool_reason": "quota_exhausted"}, 10, math.inf),
        ({"status": "error", "cause": "failing", "probe_at": NOW + 20}, 10, NOW + 20),
        ({"status": "error", "cause": "failing", "probe_at": NOW - 1}, 10, NOW + SOON_S),
        ({"ramp_since": NOW - 2, "held_calls": 1}, 10, NOW + SOON_S),
        ({"limits": Limits(requests_per_minute=4), "window": ENTRIES}, 10, NOW),
        ({"limits": Limits(requests_per_minute=3), "window": ENTRIES}, 10, NOW - 40 + SPAN_S),
        ({"limits": Limits(requests_per_minute=1), "window": ENTRIES}, 10, NOW - 20 + SPAN_S),
        ({"limits": Limits(tokens_per_minute=100), "window": ENTRIES}, 20, NOW),
        ({"limits": Limits(tokens_per_minute=100), "window": ENTRIES}, 21, NOW - 40 + SPAN_S),
        ({"limits": Limits(tokens_per_minute=100), "window": ENTRIES}, 51, NOW - 20 + SPAN_S),
        ({"limits": Limits(tokens_per_day=100), "day": DAY, "day_tokens": 94}, 6, NOW),
        ({"limits": Limits(tokens_per_day=100), "day": DAY, "day_tokens": 95}, 6, MIDNIGHT),
        ({"limits": Limits(tokens_per_day=100), "day": DAY, "held_tokens": 94}, 6, NOW),
        ({"limits": Limits(tokens_per_day=100), "day": DAY, "held_tokens": 95}, 6, NOW + SOON_S),
        ({"limits": Limits(max_in_flight=1), "held_calls": 1}, 10, NOW + SOON_S),
        ({"cooled_until": NOW + 7, "limits": Limits(max_in_flight=1), "held_calls": 1}, 10, NOW + 7),
    ],
)
def test_room_comes_back_when_the_last_limit_allows(
    changes: dict[str, object], tokens: int, moment: float
) -> None:
    assert available_at(make_key(**changes), tokens, None, NOW) == moment


@st.composite
def busy_keys(draw: st.DrawFn) -> Key:
    ages = draw(st.lists(st.integers(0, SPAN_S + 5), max_size=6, unique=True))
    window = tuple(
        WindowEntry(SECOND - age, draw(st.integers(1, 3)), draw(st.integers(0, 60)))
        for age in sorted(ages, reverse=True)
    )
    limits = Limits(draw(st.none() | st.integers(1, 8)), draw(st.none() | st.integers(1, 200)))
    return make_key(window=window, limits=limits)


@given(busy_keys(), st.integers(0, 300), st.floats(0, 0.999))
def test_a_call_fits_from_the_moment_that_was_named_and_not_before(
    key: Key, tokens: int, fraction: float
) -> None:
    now, tokens = NOW + fraction, chargeable(key, tokens, None, NOW)
    moment = available_at(key, tokens, None, now)
    assert moment >= now
    assert room(key, moment).fits(tokens)
    if moment > now:
        assert not room(key, math.nextafter(moment, 0)).fits(tokens)


@given(
    st.integers(1, 4),
    st.integers(50, 300),
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(0, 200), st.floats(0, LATEST_START_S - 0.001)), max_size=40
    ),
)
def test_no_rolling_minute_of_calls_is_above_a_limit_however_they_come(
    requests: int, tokens: int, asks: list[tuple[float, int, float]]
) -> None:
    key, now = make_key(limits=Limits(requests, tokens)), NOW
    starts: list[tuple[float, int]] = []
    for pause, asked, delay in asks:
        now += pause
        charged = chargeable(key, asked, None, NOW)
        if room(key, now).fits(charged):
            key = replace(key, window=(*key.window, WindowEntry(math.floor(now), 1, charged)))
            starts.append((now + delay, charged))
    for start, _ in starts:
        minute = [charged for at, charged in starts if start <= at < start + 60]
        assert len(minute) <= requests
        assert sum(minute) <= tokens


def test_a_leased_call_counts_in_every_minute_until_it_is_over() -> None:
    leased = (LeasedCall(NOW + 300, 1, 500, "o3"),)
    key = make_key(leased=leased, limits=Limits(1, 600), held_calls=1)
    for later in (0, SPAN_S + 1, 299):
        assert used_in_window(key, NOW + later) == used_in_window(key, NOW + later, "o3") == (1, 500)
        assert not room(key, NOW + later).fits(10)
        assert available_at(key, 10, None, NOW + later) == NOW + 300
    assert used_in_window(key, NOW, "another") == (0, 0)
    assert used_in_window(key, NOW + 300) == (0, 0)

"""The simulator's limits: an exact sliding log that a rolling minute can be checked against."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from infra.local.simulator.limits import (
    DAY_S,
    Admitted,
    Refused,
    Window,
    admit,
    duration,
    limit_headers,
    retry_headers,
)
from infra.local.simulator.script import KeyScript

NOON = 20_000 * DAY_S + DAY_S / 2


def script(rpm: int | None = None, tpm: int | None = None, tpd: int | None = None) -> KeyScript:
    return KeyScript(
        name="primary",
        api_key=SecretStr("sk-test"),
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        tokens_per_day=tpd,
    )


def attempt(window: Window, limits: KeyScript, now: float, tokens: int) -> Admitted | Refused:
    window.forget(now)
    decision = admit(window, limits, now, tokens)
    if isinstance(decision, Admitted):
        window.take(now, tokens)
    return decision


def refusal(decision: Admitted | Refused) -> Refused:
    assert isinstance(decision, Refused)
    return decision


calls = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 60)), max_size=80)


@given(calls=calls, rpm=st.integers(1, 6), tpm=st.integers(1, 100))
def test_no_rolling_minute_holds_more_than_the_limits(
    calls: list[tuple[float, int]], rpm: int, tpm: int
) -> None:
    window, limits, now = Window(), script(rpm, tpm), NOON
    admitted: list[tuple[float, int]] = []
    for pause, tokens in calls:
        now += pause
        if isinstance(attempt(window, limits, now, tokens), Admitted):
            admitted.append((now, tokens))
    for start, _ in admitted:
        minute = [tokens for at, tokens in admitted if start <= at < start + 60]
        assert len(minute) <= rpm
        assert sum(minute) <= tpm


@given(calls=calls, rpm=st.integers(1, 6), tpm=st.integers(60, 100), tpd=st.integers(200, 400))
def test_a_refused_call_passes_at_the_time_it_was_told_and_not_before(
    calls: list[tuple[float, int]], rpm: int, tpm: int, tpd: int
) -> None:
    window, limits, now = Window(), script(rpm, tpm, tpd), NOON
    for pause, tokens in calls:
        now += pause
        decision = attempt(window, limits, now, tokens)
        if isinstance(decision, Refused):
            assert decision.retry_at > now
            just_before = math.nextafter(decision.retry_at, now)
            window.forget(just_before)
            assert isinstance(admit(window, limits, just_before, tokens), Refused)
            now = decision.retry_at
            assert isinstance(attempt(window, limits, now, tokens), Admitted)


def test_a_refused_call_does_not_count() -> None:
    window, limits = Window(), script(rpm=1)
    assert isinstance(attempt(window, limits, NOON, 1), Admitted)
    for second in range(1, 60):
        assert refusal(attempt(window, limits, NOON + second, 1)).retry_at == NOON + 60
    assert isinstance(attempt(window, limits, NOON + 60, 1), Admitted)


def test_of_several_limits_the_one_that_lasts_longest_refuses() -> None:
    window, limits = Window(), script(rpm=2, tpm=100)
    attempt(window, limits, NOON, 10)
    attempt(window, limits, NOON + 30, 90)
    refused = refusal(attempt(window, limits, NOON + 40, 50))
    assert (refused.kind, refused.per, refused.retry_at) == ("tokens", "tokens per min (TPM)", NOON + 90)
    assert (refused.limit, refused.used, refused.requested) == (100, 100, 50)


def test_the_days_tokens_come_back_at_utc_midnight() -> None:
    window, limits = Window(), script(tpd=100)
    attempt(window, limits, NOON, 80)
    refused = refusal(attempt(window, limits, NOON + 3600, 30))
    assert (refused.per, refused.retry_at) == ("tokens per day (TPD)", 20_001 * DAY_S)
    assert isinstance(attempt(window, limits, refused.retry_at, 30), Admitted)
    assert window.day_tokens == 30


@pytest.mark.parametrize("limits", [script(tpm=100), script(tpd=100)])
def test_a_call_larger_than_the_limit_never_passes(limits: KeyScript) -> None:
    refused = refusal(attempt(Window(), limits, NOON, 101))
    assert refused.retry_at == math.inf
    assert retry_headers(refused.retry_at - NOON) == {}


def test_without_limits_everything_passes() -> None:
    window, random = Window(), Random(1)
    assert all(
        isinstance(attempt(window, script(), NOON, random.randrange(10**9)), Admitted) for _ in range(1000)
    )


def test_headers_say_what_is_left_and_when_the_limit_is_whole_again() -> None:
    window, limits = Window(), script(rpm=3, tpm=100)
    attempt(window, limits, NOON, 30)
    attempt(window, limits, NOON + 15.5, 30)
    assert limit_headers(window, limits, NOON + 20) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "55.5s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "40",
        "x-ratelimit-reset-tokens": "55.5s",
    }
    assert limit_headers(Window(), script(rpm=3), NOON)["x-ratelimit-reset-requests"] == "0s"
    assert limit_headers(window, script(), NOON) == {}


def test_a_wait_is_rounded_up_so_that_whoever_waits_it_passes() -> None:
    assert retry_headers(1.2001) == {"retry-after": "2", "retry-after-ms": "1201"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-1, "0s"),
        (0.0201, "21ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (360, "6m0s"),
        (72.5, "1m12.5s"),
        (86_400, "24h0m0s"),
    ],
)
def test_a_duration_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text

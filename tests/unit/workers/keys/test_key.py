"""A key as a worker sees it, read from its document."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.messages import Outcome
from infra.vault import Sealed
from tests.builders import NOON, NOW, key_document, make_key
from workers.keys.key import Key, LeasedCall, Limits, WindowEntry
from workers.keys.reported import Reported


def test_a_key_that_was_just_added_has_used_nothing() -> None:
    key = Key.from_document(key_document(), NOW)
    assert (key.id, key.automation_id, key.alias) == ("key-1", "billing-bot", "Primary")
    assert key.secret == Sealed("m1", b"nonce", b"ciphertext")
    assert key.limits == Limits()
    assert (key.status, key.status_until, key.cooled_until) == ("active", None, 0.0)
    assert (key.window, key.day_tokens, key.held_calls, key.held_tokens) == ((), 0, 0, 0)
    assert (key.latency_ms, key.error_rate, key.failures_in_a_row, key.last_used_at) == (0, 0, 0, 0)
    assert key.denied_models == {}
    assert key.is_usable(NOW)


def test_everything_that_workers_wrote_is_read() -> None:
    later = NOON + timedelta(seconds=90)
    document = key_document(
        limits={
            "requests_per_minute": 60,
            "tokens_per_minute": 1000,
            "tokens_per_day": 50_000,
            "max_in_flight": 4,
        },
        status="exhausted",
        status_reason="the day is spent",
        status_until=later,
        cooled_until=later,
        cool_reason="rate_limited",
        window=[{"s": 5, "m": "o3", "n": 1, "t": 40}, {"s": 6, "m": "", "n": 2, "t": 90}],
        day="2026-03-10",
        day_tokens=130,
        held=[{"w": "worker-1", "n": 2, "t": 30, "until": later}],
        health={"latency_ms": 812.5, "error_rate": 0.25, "failures": 3},
        last_used_at=NOON,
        denied_models=[{"model": "o3", "until": later}],
    )
    key = Key.from_document(document, NOW)
    assert key.limits == Limits(60, 1000, 50_000, 4)
    assert (key.status, key.status_reason) == ("exhausted", "the day is spent")
    assert key.status_until == key.cooled_until == NOW + 90
    assert key.window == (WindowEntry(5, 1, 40, "o3"), WindowEntry(6, 2, 90))
    assert (key.day, key.day_tokens) == ("2026-03-10", 130)
    assert (key.held_calls, key.held_tokens) == (2, 30)
    assert (key.latency_ms, key.error_rate, key.failures_in_a_row) == (812.5, 0.25, 3)
    assert key.last_used_at == NOW
    assert key.denied_models == {"o3": NOW + 90}


def test_what_workers_hold_is_added_up_and_a_dead_workers_hold_has_lapsed() -> None:
    held = [
        {"w": "alive", "n": 2, "t": 30, "until": NOON + timedelta(seconds=60)},
        {"w": "alive too", "n": 1, "t": 5, "until": NOON + timedelta(milliseconds=1)},
        {"w": "dead", "n": 9, "t": 900, "until": NOON},
    ]
    key = Key.from_document(key_document(held=held), NOW)
    assert (key.held_calls, key.held_tokens) == (3, 35)


@pytest.mark.parametrize(("until", "is_fresh"), [(NOON + timedelta(seconds=1), True), (NOON, False)])
def test_what_the_provider_says_of_a_model_counts_for_that_model_while_it_is_fresh(
    until: datetime, is_fresh: bool
) -> None:
    reported = {
        "model": "gpt-4o",
        "requests_per_minute": 3,
        "tokens_per_minute": None,
        "until": until,
        "outside_requests": 10,
        "outside_tokens": 0,
        "outside_since": NOON - timedelta(seconds=15),
        "outside_until": NOON + timedelta(seconds=45),
    }
    key = Key.from_document(key_document(reported=[reported]), NOW)
    expected = Reported(3, None, until.timestamp(), 10, 0, NOW - 15, NOW + 45)
    assert key.reported_for("gpt-4o", NOW) == (expected if is_fresh else None)
    assert key.reported_for("o3", NOW) is None
    assert key.reported_for(None, NOW) is None


def test_times_are_moments_whatever_the_machines_zone() -> None:
    document = key_document(cooled_until=datetime(2026, 3, 10, 12, 1, tzinfo=UTC))
    assert Key.from_document(document, NOW).cooled_until == NOW + 60


@pytest.mark.parametrize(
    ("status", "until", "usable"),
    [
        ("active", None, True),
        ("active", NOW + 60, True),
        ("exhausted", None, False),
        ("exhausted", NOW + 0.1, False),
        ("exhausted", NOW, True),
        ("error", None, False),
        ("error", NOW - 60, False),
        ("disabled", None, False),
        ("disabled", NOW - 60, False),
    ],
)
def test_only_active_keys_and_those_whose_exhaustion_is_over_are_usable(
    status: str, until: float | None, usable: bool
) -> None:
    assert make_key(status=status, status_until=until).is_usable(NOW) is usable


@pytest.mark.parametrize(
    ("changes", "refused", "failing", "lacks_quota"),
    [
        ({}, False, False, False),
        ({"status": "disabled"}, True, False, False),
        ({"status": "error"}, True, False, False),
        ({"status": "error", "cause": "refused"}, True, False, False),
        ({"status": "error", "cause": "failing"}, False, True, False),
        ({"status": "exhausted", "cause": "day"}, False, False, False),
        ({"status": "exhausted", "cause": "quota"}, False, False, True),
        ({"cooled_until": NOW + 1, "cool_reason": Outcome.AUTH_FAILED}, True, False, False),
        ({"cooled_until": NOW, "cool_reason": Outcome.AUTH_FAILED}, False, False, False),
        ({"cooled_until": NOW + 1, "cool_reason": Outcome.QUOTA_EXHAUSTED}, False, False, True),
        ({"cooled_until": NOW, "cool_reason": Outcome.QUOTA_EXHAUSTED}, False, False, False),
        ({"cooled_until": NOW + 1, "cool_reason": Outcome.RATE_LIMITED}, False, False, False),
        ({"cooled_until": NOW + 1, "cool_reason": "auth_failed"}, True, False, False),
    ],
)
def test_why_a_key_is_out_of_use_counts_before_its_status_is_written(
    changes: dict[str, object], refused: bool, failing: bool, lacks_quota: bool
) -> None:
    key = make_key(**changes)
    assert (key.is_refused(NOW), key.is_failing(), key.lacks_quota(NOW)) == (refused, failing, lacks_quota)


def test_what_is_leased_is_held_until_it_is_over() -> None:
    document = key_document(
        held=[{"w": "worker-1", "n": 2, "t": 30, "until": NOON + timedelta(seconds=90)}],
        leased=[
            {"id": "lease-1", "m": "o3", "n": 1, "t": 500, "until": NOON + timedelta(seconds=300)},
            {"id": "lease-2", "m": "", "n": 1, "t": 700, "until": NOON},
        ],
    )
    key = Key.from_document(document, NOW)
    assert key.leased == (LeasedCall(NOW + 300, 1, 500, "o3"),)
    assert (key.held_calls, key.held_tokens) == (3, 530)


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": None},
        {"secret": {}},
        {"limits": None},
        {"limits": {"requests_per_minute": 0}},
        {"limits": {"requests_per_minute": 2**70}},
        {"limits": {"tokens_per_minute": "many"}},
        {"limits": {"tokens_per_minute": 1.5}},
        {"limits": {"tokens_per_minute": float("nan")}},
        {"limits": {"unheard_of": 1}},
        {"tier": 7},
        {"tier": "primary"},
        {"window": [{"s": 1}]},
        {"held": 7},
        {"leased": [None]},
        {"health": []},
        {"probe": "soon"},
        {"status_until": "tomorrow"},
        {"denied_models": {"a": 1}},
        {"reported": [{}]},
    ],
    ids=str,
)
def test_a_key_whose_document_can_not_be_read_is_in_error_and_says_so(changes: dict[str, Any]) -> None:
    key = Key.from_document(key_document(**changes), NOW)
    assert (key.id, key.alias, key.status) == ("key-1", "Primary", "error")
    assert key.status_reason.startswith("its document can't be read: ")
    assert not key.is_usable(NOW)


def test_a_limit_that_a_shell_wrote_as_a_double_is_a_limit() -> None:
    assert Key.from_document(key_document(limits={"requests_per_minute": 500.0}), NOW).limits == Limits(500)

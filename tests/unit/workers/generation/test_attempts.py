"""Attempts: for how long a request waits for a key, and how long it pauses after a failure."""

import math
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Path
from infra.settings import Settings
from tests.builders import NOW, make_envelope
from workers.generation.attempts import (
    BACK_OFF_MAX_S,
    MAX_PROVIDER_FAILURES,
    PATIENCE_S,
    Attempts,
    back_off_s,
)
from workers.generation.reading import LONGEST_DEADLINE_S, Request
from workers.keys.selection import Ask, Refusal, RefusalReason


def test_a_request_that_waits_until_its_deadline_is_never_taken_for_poison() -> None:
    # Each time that it is handed back counts as a delivery; it is kept for at least its patience before.
    assert Settings().delivery_limit > LONGEST_DEADLINE_S / PATIENCE_S


class ImpatientPool:
    """A pool that only remembers for how long an ask would wait."""

    def __init__(self, now: float) -> None:
        self._now = now
        self.patience_s = math.nan

    def now(self) -> float:
        return self._now

    async def reserve(self, _: str, ask: Ask, __: int | None) -> Refusal:
        self.patience_s = ask.patience_until - self._now
        return Refusal(RefusalReason.NO_CAPACITY)


@pytest.mark.parametrize(
    ("held_s", "patience_s"), [(0, 20), (29, 20), (30, 20), (45, 5), (50, 0), (300, -250)]
)
async def test_no_request_waits_in_a_worker_for_over_a_minute(held_s: float, patience_s: float) -> None:
    pool = ImpatientPool(NOW + held_s)
    attempts = Attempts(cast("Any", pool), cast("Any", None), cast("Any", None))
    envelope = make_envelope(received_at=NOW)
    await attempts.reserve(Request(envelope, Path.MODERATIONS, {}, None, NOW + 600, 1), None)
    assert pool.patience_s == patience_s


@given(st.integers(1, 100))
def test_a_pause_is_never_longer_than_the_longest(failures: int) -> None:
    assert 0 <= back_off_s(failures) <= BACK_OFF_MAX_S


def test_pauses_are_short_at_first_and_grow_with_every_failure() -> None:
    means = [
        sum(back_off_s(failures) for _ in range(500)) / 500 for failures in range(1, MAX_PROVIDER_FAILURES)
    ]
    assert means[0] < 0.5
    assert all(later > 1.3 * earlier for earlier, later in pairwise(means))


def test_two_requests_that_fail_together_do_not_come_back_together() -> None:
    assert len({back_off_s(3) for _ in range(20)}) > 10

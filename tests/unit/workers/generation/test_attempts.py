"""Attempts: what a request without a key is told, and how long it pauses after a failure."""

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ErrorCode
from contracts.messages import Path
from infra.settings import Settings
from tests.builders import NOW, make_envelope
from workers.generation.attempts import (
    BACK_OFF_MAX_S,
    MAX_PROVIDER_FAILURES,
    PATIENCE_S,
    Attempts,
    back_off_s,
    refused,
)
from workers.generation.classification import MODEL_UNAVAILABLE, SERVER_ERROR, classify
from workers.generation.reading import LONGEST_DEADLINE_S, Request
from workers.generation.upstream import Failure
from workers.keys.selection import Ask, Refusal, RefusalReason

PROVIDER: dict[str, Any] = {"error": {"message": "what the provider says"}}
OVERLOADED = Failure(SERVER_ERROR, "what the provider says", 12, 503, None, PROVIDER)
LIMITED = Failure(classify(429, "", "", {}, NOW), "slow down", 12, 429, None, PROVIDER)
NO_MODEL = Failure(MODEL_UNAVAILABLE, "the model `o9` does not exist", 12, 404, None, PROVIDER)


@pytest.mark.parametrize(
    ("reason", "failure", "code"),
    [
        (RefusalReason.DEADLINE_PASSED, None, ErrorCode.DEADLINE_EXCEEDED),
        (RefusalReason.PROVIDER_FAILING, None, ErrorCode.PROVIDER_UNAVAILABLE),
        (RefusalReason.PROVIDER_FAILING, OVERLOADED, ErrorCode.PROVIDER_UNAVAILABLE),
        (RefusalReason.NO_KEYS, None, ErrorCode.NO_KEYS),
        (RefusalReason.NO_USABLE_KEY, None, ErrorCode.NO_USABLE_KEY),
        (RefusalReason.MODEL_UNAVAILABLE, None, ErrorCode.PROVIDER_REJECTED),
        (RefusalReason.MODEL_UNAVAILABLE, NO_MODEL, ErrorCode.PROVIDER_REJECTED),
        (RefusalReason.KEYS_EXHAUSTED, None, ErrorCode.KEYS_EXHAUSTED),
        (RefusalReason.KEYS_EXHAUSTED, OVERLOADED, ErrorCode.KEYS_EXHAUSTED),
        (RefusalReason.NO_CAPACITY, None, ErrorCode.DEADLINE_EXCEEDED),
        (RefusalReason.NO_CAPACITY, LIMITED, ErrorCode.DEADLINE_EXCEEDED),
        (RefusalReason.NO_CAPACITY, OVERLOADED, ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_a_request_without_a_key_fails_with_the_code_of_its_reason(
    reason: RefusalReason, failure: Failure | None, code: ErrorCode
) -> None:
    assert refused(Refusal(reason), failure).code is code


@pytest.mark.parametrize("reason", RefusalReason)
def test_every_reason_has_an_error_with_a_message(reason: RefusalReason) -> None:
    assert refused(Refusal(reason), None).message


@pytest.mark.parametrize("reason", [RefusalReason.KEYS_EXHAUSTED, RefusalReason.NO_CAPACITY])
@pytest.mark.parametrize("failure", [None, OVERLOADED])
def test_when_to_ask_again_is_passed_on(reason: RefusalReason, failure: Failure | None) -> None:
    retry_at = datetime(2026, 3, 11, tzinfo=UTC).timestamp()
    assert refused(Refusal(reason, retry_at), failure).retry_at == retry_at


@pytest.mark.parametrize(
    "reason", [reason for reason in RefusalReason if reason is not RefusalReason.NO_KEYS]
)
def test_what_the_provider_said_last_is_passed_on(reason: RefusalReason) -> None:
    assert refused(Refusal(reason), OVERLOADED).provider == PROVIDER
    assert refused(Refusal(reason), None).provider is None


def test_where_no_key_has_the_model_the_providers_own_words_are_the_message() -> None:
    refusal = Refusal(RefusalReason.MODEL_UNAVAILABLE)
    assert refused(refusal, NO_MODEL).message == "the model `o9` does not exist"
    assert refused(refusal, None).message == "no key of the automation may use this model"


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
    attempts = Attempts(cast("Any", pool), cast("Any", None), cast("Any", None), 1)
    envelope = make_envelope(received_at=NOW)
    await attempts.reserve(Request(envelope, Path.MODERATIONS, {}, None, NOW + 600), None)
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

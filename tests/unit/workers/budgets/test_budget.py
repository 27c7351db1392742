"""Budgets: periods, what fits, what is spent, and which thresholds are crossed."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.alerts import AlertKind
from tests.builders import NOW, make_key
from workers.budgets.books import thresholds
from workers.budgets.budget import HELD_FRESH_S, Budget, Window, days_of, next_period_at, period_at
from workers.keys.selection import Ask, Refusal, RefusalReason, plan

AMOUNT = st.integers(0, 10_000)
MOMENT = st.integers(1_700_000_000, 1_950_000_000)


def make_budget(**changes: object) -> Budget:
    budget = Budget(
        id="key/day/billing-bot/key-1",
        scope="key",
        automation_id="billing-bot",
        subject="key-1",
        label="Primary",
        window="day",
        limit=1000,
        soft_percent=80,
        hard=True,
        period="2026-03-10",
        spent=0,
        held=0,
        seen_at=NOW,
    )
    return replace(budget, **changes)  # type: ignore[arg-type]


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "moment", "period", "until"),
    [
        ("day", "2026-03-10T12:00:00", "2026-03-10", "2026-03-11T00:00:00"),
        ("day", "2026-12-31T23:59:59.999", "2026-12-31", "2027-01-01T00:00:00"),
        ("month", "2026-03-31T12:00:00", "2026-03", "2026-04-01T00:00:00"),
        ("month", "2026-12-31T23:59:59.999", "2026-12", "2027-01-01T00:00:00"),
        ("month", "2028-02-29T00:00:00", "2028-02", "2028-03-01T00:00:00"),
    ],
)
def test_periods_are_utc_days_and_months(window: Window, moment: str, period: str, until: str) -> None:
    assert period_at(window, seconds(moment)) == period
    assert next_period_at(window, seconds(moment)) == seconds(until)


@given(MOMENT, st.sampled_from(("day", "month")))
def test_a_period_has_its_days_and_ends_where_the_next_begins(now: int, window: Window) -> None:
    period, until = period_at(window, now), next_period_at(window, now)
    assert now < until
    assert period_at(window, until) != period
    assert period_at(window, until - 0.001) == period
    days = days_of(period)
    assert period_at("day", now) in days
    assert len(days) == (1 if window == "day" else datetime.fromtimestamp(until - 1, UTC).day)


@given(limit=st.integers(1, 10_000), spent=AMOUNT, held=AMOUNT, cost=AMOUNT)
def test_what_fits_never_passes_the_limit_and_is_not_spent(
    limit: int, spent: int, held: int, cost: int
) -> None:
    budget = make_budget(limit=limit, spent=spent, held=held)
    if budget.fits(cost, NOW):
        assert spent + held + min(cost, limit) <= limit
        assert not budget.is_spent(cost, NOW)
    if spent >= limit:
        assert budget.is_spent(cost, NOW)
    assert not make_budget(limit=limit, spent=spent, hard=False).is_spent(cost, NOW)
    yesterdays = make_budget(limit=limit, spent=spent, period="2026-03-09")
    assert yesterdays.fits(cost, NOW)


def test_what_is_held_is_believed_for_a_moment_only() -> None:
    budget = make_budget(spent=500, held=500)
    assert not budget.fits(1, NOW)
    assert not budget.is_spent(1, NOW)
    assert budget.fits(1, NOW + HELD_FRESH_S)
    assert not budget.fits(1, NOW + HELD_FRESH_S, taken=500)


@pytest.mark.parametrize(
    ("spent", "soft", "crossed"),
    [
        (0, 80, []),
        (799, 80, []),
        (800, 80, [AlertKind.BUDGET_SOFT]),
        (999, 80, [AlertKind.BUDGET_SOFT]),
        (1000, 80, [AlertKind.BUDGET_SOFT, AlertKind.BUDGET_SPENT]),
        (1500, 100, [AlertKind.BUDGET_SPENT]),
    ],
)
def test_thresholds_are_crossed_at_their_share(spent: int, soft: int, crossed: list[AlertKind]) -> None:
    found = thresholds(make_budget(soft_percent=soft), "2026-03-10", spent)
    assert [threshold.kind for threshold in found if threshold.is_crossed] == crossed


def make_ask(**changes: object) -> Ask:
    ask = Ask("gpt-4o-mini", 1000, NOW + 2 * 86_400, input_tokens=1000)
    return replace(ask, **changes)  # type: ignore[arg-type]


def test_an_ask_costs_what_its_tokens_do_and_the_dearer_where_nobody_knows_which() -> None:
    assert make_ask().cost_nanousd == 150_000
    assert make_ask(input_tokens=0).cost_nanousd == 600_000
    assert make_ask(input_tokens=None).cost_nanousd == 600_000
    assert make_ask(model="own-model").cost_nanousd == 0


def test_a_key_whose_budget_is_spent_is_left_out_and_all_of_them_are_a_refusal_at_once() -> None:
    keys = [make_key(id="key-1"), make_key(id="key-2", tier=1)]
    spent = {"key-1": [make_budget(limit=200_000, spent=100_000)]}
    assert plan([make_ask()], keys, NOW, budgets=spent).reserve == {"key-2": [0]}
    both = spent | {"key-2": [make_budget(id="m", window="month", period="2026-03", limit=9, spent=9)]}
    (refusal,) = plan([make_ask()], keys, NOW, budgets=both).refuse.values()
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.BUDGET_SPENT
    assert refusal.retry_at == next_period_at("day", NOW)
    assert (
        refusal.detail
        == "the daily budget of key Primary has $0.000100 left, and the call may cost $0.000150"
    )


def test_asks_that_are_planned_together_share_a_keys_budget() -> None:
    budgets = {"key-1": [make_budget(limit=1_000_000, spent=200_000, held=200_000)]}
    planned = plan([make_ask()] * 9, [make_key(id="key-1")], NOW, budgets=budgets)
    assert planned.reserve == {"key-1": [0, 1, 2, 3]}
    assert planned.refuse == {}
    assert planned.look_again_at is not None
    assert NOW < planned.look_again_at < NOW + 1

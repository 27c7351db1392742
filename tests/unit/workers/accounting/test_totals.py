"""Totals are sums of ledger rows, and nothing else."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.mongo import Document, UpdateOne
from infra.totals import total_id
from tests.builders import NOON, ledger_row
from workers.accounting.totals import subjects, total_updates

COUNTS = st.integers(0, 10_000)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "automation_id": st.sampled_from(["bot-a", "bot-b"]),
            "key_id": st.sampled_from(["key-1", "key-2", "same"]),
            "user_id": st.sampled_from([None, "u-1", "u-2", "same"]),
            "model": st.sampled_from(["gpt-4o-mini", "o3", "same"]),
            "outcome": st.sampled_from(["ok", "timeout", "rate_limited"]),
            "price_known": st.booleans(),
            "prompt_tokens": COUNTS,
            "completion_tokens": COUNTS,
            "total_tokens": COUNTS,
            "cached_tokens": COUNTS,
            "reasoning_tokens": COUNTS,
            "cost_nanousd": COUNTS,
            "latency_ms": COUNTS,
            "reserved_tokens": COUNTS,
            "occurred_at": st.sampled_from([NOON, NOON.replace(day=11)]),
        }
    ).map(lambda changes: ledger_row(**changes)),
    max_size=25,
)


def totals(*batches: list[Document]) -> dict[str, Document]:
    """What MongoDB has after these batches of upserts: `$inc`, `$min` and `$setOnInsert` as it does them."""
    stored: dict[str, Document] = {}
    for update in (update for batch in batches for update in total_updates(batch)):
        identity, change = _parts(update)
        fresh = identity not in stored
        document = stored.setdefault(identity, defaultdict(int))
        if fresh:
            document |= change["$setOnInsert"]
        for field, value in change["$inc"].items():
            document[field] += value
        for field, value in change["$min"].items():
            document[field] = min(document[field], value) if field in document else value
    return stored


def _parts(update: UpdateOne) -> tuple[str, Document]:
    change = update._doc
    assert isinstance(change, dict)
    assert update._upsert
    return str(update._filter["_id"]), change


def of(stored: dict[str, Document], dimension: str) -> list[Document]:
    return [total for total in stored.values() if total["dimension"] == dimension]


SUMS = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_nanousd",
    "latency_ms",
    "reserved_tokens",
]


@given(ROWS)
def test_every_dimensions_totals_sum_up_to_the_ledger(rows: list[Document]) -> None:
    stored = totals(rows)
    with_user = [row for row in rows if row["user_id"] is not None]
    for dimension, counted in [("key", rows), ("automation", rows), ("model", rows), ("user", with_user)]:
        found = of(stored, dimension)
        for field in SUMS:
            assert sum(total[field] for total in found) == sum(row[field] for row in counted)
        assert sum(total["attempts"] for total in found) == len(counted)
        assert sum(total["succeeded"] for total in found) == sum(row["outcome"] == "ok" for row in counted)
        assert sum(total["unpriced"] for total in found) == sum(not row["price_known"] for row in counted)


@given(ROWS)
def test_a_total_counts_the_rows_of_its_subject_and_day_only(rows: list[Document]) -> None:
    fields = {"key": "key_id", "automation": "automation_id", "user": "user_id", "model": "model"}
    for total in totals(rows).values():
        own = [
            row
            for row in rows
            if (row["day"], row["automation_id"], row[fields[total["dimension"]]])
            == (total["day"], total["automation_id"], total["subject"])
        ]
        assert total["attempts"] == len(own) > 0
        assert total["cost_nanousd"] == sum(row["cost_nanousd"] for row in own)
        assert total["least_reserved_tokens"] == min(row["reserved_tokens"] for row in own)


@given(ROWS, st.integers(0, 25))
def test_it_does_not_matter_how_rows_are_cut_into_batches(rows: list[Document], cut: int) -> None:
    assert totals(rows[:cut], rows[cut:]) == totals(rows)


def test_no_rows_are_no_updates() -> None:
    assert total_updates([]) == []


def test_a_row_without_a_user_counts_for_no_user() -> None:
    assert [dimension for dimension, _ in subjects(ledger_row(user_id=None))] == [
        "key",
        "automation",
        "model",
    ]
    assert ("user", "u-42") in subjects(ledger_row(user_id="u-42"))


@pytest.mark.parametrize(
    ("dimension", "subject", "label"),
    [
        ("key", "key-1", "Primary"),
        ("automation", "billing-bot", "billing-bot"),
        ("user", "u-42", "u-42"),
        ("model", "gpt-4o-mini", "gpt-4o-mini"),
    ],
)
def test_a_total_says_what_it_is_of(dimension: str, subject: str, label: str) -> None:
    stored = totals([ledger_row()])
    total = stored[f"{dimension}/2026-03-10/billing-bot/{subject}"]
    assert (total["dimension"], total["day"], total["automation_id"]) == (
        dimension,
        "2026-03-10",
        "billing-bot",
    )
    assert (total["subject"], total["label"]) == (subject, label)
    assert (total["total_tokens"], total["cost_nanousd"], total["attempts"]) == (46, 19_050, 1)


def test_one_users_totals_at_two_automations_are_apart() -> None:
    stored = totals([ledger_row(automation_id="bot-a"), ledger_row(automation_id="bot-b")])
    assert [total["attempts"] for total in of(stored, "user")] == [1, 1]


@given(st.text(max_size=10), st.text(max_size=10))
def test_no_subject_can_pass_for_another(one: str, two: str) -> None:
    ids = {total_id(d, "2026-03-10", a, s) for d in ("user", "model") for a in ("a", "b") for s in (one, two)}
    assert len(ids) == 4 * len({one, two})

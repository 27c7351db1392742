"""What differs between totals and the ledger that they are sums of."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Outcome
from infra.mongo import Document
from tests.builders import ledger_row
from workers.accounting.rebuild import FIELDS, Difference, add_row, compare, rows_of
from workers.accounting.totals import total_updates

rows = st.lists(
    st.builds(
        ledger_row,
        key_id=st.sampled_from(["key-1", "key-2"]),
        user_id=st.sampled_from([None, "u-1", "u-2"]),
        model=st.sampled_from(["gpt-4o", "gpt-4o-mini"]),
        outcome=st.sampled_from(Outcome),
        total_tokens=st.integers(0, 100),
        cost_nanousd=st.integers(0, 10**12),
        reserved_tokens=st.integers(0, 100),
        price_known=st.booleans(),
    ),
    max_size=12,
)


def summed(ledger: list[Document]) -> dict[str, Document]:
    totals: dict[str, Document] = {}
    for row in ledger:
        add_row(totals, row)
    return totals


@given(rows)
def test_a_total_is_what_accounting_makes_of_the_same_rows(ledger: list[Document]) -> None:
    updates: list[tuple[Any, Any]] = [(update._filter, update._doc) for update in total_updates(ledger)]
    by_accounting = {
        query["_id"]: {**doc["$inc"], **doc["$min"], **doc["$setOnInsert"]} for query, doc in updates
    }
    assert summed(ledger) == by_accounting
    assert list(compare(by_accounting, summed(ledger))) == []


def test_each_field_that_differs_is_named() -> None:
    right = summed([ledger_row()])
    identity = "key/2026-03-10/billing-bot/key-1"
    wrong = {**right, identity: {**right[identity], "attempts": 2, "least_reserved_tokens": 1}}
    del wrong[identity]["ambiguous"]
    head = (identity, "key", "2026-03-10", "billing-bot", "key-1")
    assert list(compare(wrong, right)) == [
        Difference(*head, "attempts", 2, 1),
        Difference(*head, "ambiguous", None, 0),
        Difference(*head, "least_reserved_tokens", 1, 60),
    ]


def test_a_missing_total_and_one_without_rows_are_named_by_their_attempts() -> None:
    two = summed([ledger_row(), ledger_row(event_id="r-2:1", model="gpt-4o", user_id=None)])
    one = summed([ledger_row()])
    identity = "model/2026-03-10/billing-bot/gpt-4o"
    missing = [d for d in compare({}, two) if d.total == identity]
    assert missing == [
        Difference(identity, "model", "2026-03-10", "billing-bot", "gpt-4o", "attempts", None, 1)
    ]
    stale = {name: total for name, total in two.items() if name not in one}
    assert [(d.total, d.found, d.expected) for d in compare(stale, {})] == [(identity, 1, None)]


def test_a_total_whose_only_row_became_anothers_is_right_when_it_is_nought() -> None:
    total = next(iter(summed([ledger_row()]).values()))
    nought = {**total, **dict.fromkeys((field for field in FIELDS if field != "least_reserved_tokens"), 0)}
    assert list(compare({"model/x": nought}, {})) == []


def test_a_label_is_no_difference() -> None:
    right = summed([ledger_row()])
    renamed = {identity: {**total, "label": "Old name"} for identity, total in right.items()}
    assert list(compare(renamed, right)) == []


def test_the_rows_of_a_day_are_those_from_midnight_to_midnight() -> None:
    query = rows_of("2026-03-10", "billing-bot")
    between = query["occurred_at"]
    assert (between["$gte"].isoformat(), between["$lt"].isoformat()) == (
        "2026-03-10T00:00:00+00:00",
        "2026-03-11T00:00:00+00:00",
    )

"""Which events are new to the ledger."""

from datetime import timedelta
from typing import Any

import pytest

from infra.mongo import Document
from tests.builders import NOON, ledger_row
from workers.accounting.placing import other_id, other_ids, place

LATER = NOON + timedelta(hours=2)


def row(outcome: str = "ok", **changes: Any) -> Document:
    return ledger_row(outcome=outcome, **changes)


def outcomes(rows: list[Document]) -> list[str]:
    return [one["outcome"] for one in rows]


def known(*rows: Document) -> dict[str, Document]:
    return {one["_id"]: one for one in rows}


def test_what_is_delivered_again_is_a_repeat_within_a_batch_and_after_it() -> None:
    placed = place([row(), row()], {})
    assert (len(placed.added), placed.replaced, placed.is_new) == (1, [], [True, False])
    assert place([row()], known(row())).is_new == [False]


def test_times_are_compared_as_mongodb_keeps_them() -> None:
    exact = row(occurred_at=NOON + timedelta(microseconds=1999))
    kept = row(occurred_at=NOON + timedelta(milliseconds=1))
    assert place([exact], known(kept)).is_new == [False]


@pytest.mark.parametrize("in_one_batch", [True, False])
def test_what_is_told_late_takes_the_place_of_an_ambiguous_row_and_never_the_other_way_round(
    in_one_batch: bool,
) -> None:
    unknown, told = row("ambiguous"), row(occurred_at=NOON + timedelta(minutes=5))
    if in_one_batch:
        for batch in ([unknown, told], [told, unknown]):
            placed = place(batch, {})
            assert (outcomes(placed.added), placed.replaced) == (["ok"], [])
        return
    placed = place([told], known(unknown))
    assert (outcomes(placed.added), placed.replaced, placed.is_new) == (["ok"], [unknown], [True])
    assert place([unknown], known(told)).added == []


def test_a_request_id_that_is_used_again_is_another_attempt_with_a_row_of_its_own() -> None:
    first, second = row(), row(occurred_at=LATER)
    placed = place([second], known(first))
    (added,) = placed.added
    assert added["_id"] == other_id(second) != first["_id"]
    assert placed.replaced == []
    assert place([second, first], known(first, added)).is_new == [False, False]


def test_an_ambiguous_attempt_of_an_id_that_is_used_again_is_not_lost_to_the_first() -> None:
    placed = place([row("ambiguous", occurred_at=LATER)], known(row()))
    assert outcomes(placed.added) == ["ambiguous"]


def test_the_ledger_is_asked_for_other_ids_only_where_an_id_is_another_attempts() -> None:
    first, second, elsewhere = row(), row(occurred_at=LATER), row(event_id="req-2:1")
    assert other_ids([first, first, elsewhere], known(first)) == []
    assert other_ids([second, elsewhere], known(first)) == [other_id(second)]
    assert other_ids([first, second], {}) == [other_id(second)]


def test_a_repeat_is_found_whatever_of_the_ledger_is_read_for_its_batch() -> None:
    first, second = row(), row(occurred_at=LATER)
    ledger = {one["_id"]: one for one in (first, {**second, "_id": other_id(second)})}
    for batch in ([first], [second], [first, second], [second, first]):
        read = {one["_id"]: ledger[one["_id"]] for one in batch}
        read |= {identity: ledger[identity] for identity in other_ids(batch, read) if identity in ledger}
        assert place(batch, read).is_new == [False] * len(batch)

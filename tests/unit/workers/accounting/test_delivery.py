"""What a target is told, and when it is tried again."""

from typing import Any

import pytest

from infra.alert_notices import RAISED, RESOLVED, held_back_s
from infra.alerts import AlertKind
from infra.mongo import Document
from tests.builders import NOON
from workers.accounting.delivery import HEADLINES, MOST_OF_A_REASON, compose, retry_s


def notice(**changes: Any) -> Document:
    return {
        "kind": "pool_empty",
        "automation_id": "billing-bot",
        "label": "pool",
        "reason": "none of 2 keys is usable",
        "change": RAISED,
        "at": NOON,
        **changes,
    }


def test_one_notice_is_told_whole() -> None:
    letter = compose([notice()])
    assert letter.title == "Keyway: [critical] no usable key left: billing-bot/pool"
    assert letter.body == (
        "2026-03-10 12:00:00 UTC [critical] no usable key left: billing-bot/pool: none of 2 keys is usable"
    )
    assert letter.tone == "failure"


def test_what_is_over_is_good_news() -> None:
    letter = compose([notice(change=RESOLVED)])
    assert letter.title == "Keyway: [resolved] no usable key left: billing-bot/pool"
    assert letter.tone == "success"
    assert "none of" not in letter.body


def test_several_notices_are_one_message_in_their_order_and_as_grave_as_the_worst() -> None:
    low = notice(kind="pool_low")
    letter = compose([low, notice(change=RESOLVED), notice(kind="dead_letters", automation_id=None)])
    assert letter.title == "Keyway: 3 notices of alerts"
    assert [line.split("] ")[1] for line in letter.body.splitlines()] == [
        "one usable key left: billing-bot/pool: none of 2 keys is usable",
        "no usable key left: billing-bot/pool",
        "dead letters: none of 2 keys is usable",
    ]
    assert letter.tone == "warning"
    assert compose([low, notice()]).tone == "failure"


def test_names_call_nobody_and_are_no_markup() -> None:
    hostile = "@everyone <!channel> <https://x|y>\n\x1b[31m\u202e" + "x" * 1000
    letter = compose([notice(label=hostile, reason=hostile)])
    for text in (letter.title, letter.body):
        assert not set(text) & set("@<>\x1b\u202e\n")
    assert len(compose([notice(reason=hostile)]).body) < MOST_OF_A_REASON + 120


def test_every_kind_has_its_words() -> None:
    assert set(HEADLINES) == set(AlertKind)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 2), (2, 4), (3, 8), (9, 512), (10, 900), (5000, 900)])
def test_a_target_that_fails_is_tried_less_and_less(failures: int, seconds: float) -> None:
    assert retry_s(failures) == seconds


@pytest.mark.parametrize(("times", "seconds"), [(1, 0), (2, 30), (3, 60), (6, 480), (7, 900), (5000, 900)])
def test_what_comes_and_goes_is_told_of_less_and_less(times: int, seconds: float) -> None:
    assert held_back_s(times) == seconds

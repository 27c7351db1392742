"""Which alerts should stand, by what is known: a table."""

from dataclasses import replace
from datetime import timedelta

import pytest

from infra.alerts import AlertKind
from infra.lanes import Age
from tests.builders import NOON
from workers.accounting.conditions import (
    GONE,
    NEW,
    About,
    Automation,
    Changes,
    Facts,
    Findings,
    Queue,
    Thresholds,
    changes,
    findings,
)

BOT = Automation(
    id="bot",
    enabled=True,
    paused=False,
    created_at=NOON - timedelta(days=30),
    last_heartbeat_at=None,
    keys=3,
    usable_keys=3,
)
THRESHOLDS = Thresholds(lane_age_s=300, dead_letters=2, silence_s=120, ledger_lag_s=60)
LONG_AGO = NOON - timedelta(hours=1)
LANE, DEAD, BOOKS = "requests.bot", "dead", "accounting"


def facts(automation: Automation = BOT, **queues: Queue) -> Facts:
    """What is known of one automation, and of queues by `lane`, `dead` and `books`."""
    names = {"lane": LANE, "dead": DEAD, "books": BOOKS}
    return Facts(NOON, LONG_AGO, [automation], {names[name]: queue for name, queue in queues.items()})


def bot(**changed: object) -> Automation:
    return replace(BOT, **changed)  # type: ignore[arg-type]


def old(seconds: float, *, at_least: bool = False) -> Queue:
    return Queue(waiting=7, oldest=Age(seconds, at_least), consumers=1)


def silent(seconds: float, **changed: object) -> Automation:
    return bot(last_heartbeat_at=NOON - timedelta(seconds=seconds), **changed)


CALM: set[str] = set()


@pytest.mark.parametrize(
    ("known", "standing", "unsure"),
    [
        pytest.param(facts(), CALM, CALM, id="all is well"),
        pytest.param(facts(bot(usable_keys=2)), CALM, CALM, id="two of three keys are usable"),
        pytest.param(facts(bot(usable_keys=1)), {"pool_low"}, CALM, id="one of three keys is usable"),
        pytest.param(facts(bot(keys=1, usable_keys=1)), CALM, CALM, id="the only key is usable"),
        pytest.param(facts(bot(usable_keys=0)), {"pool_empty"}, {"pool_low"}, id="no key is usable"),
        pytest.param(
            facts(bot(keys=1, usable_keys=0)), {"pool_empty"}, {"pool_low"}, id="the only key is not"
        ),
        pytest.param(facts(bot(keys=0, usable_keys=0)), {"pool_empty"}, {"pool_low"}, id="it has no keys"),
        pytest.param(
            facts(bot(keys=0, usable_keys=0, created_at=NOON - NEW / 2)), CALM, {"pool_low"}, id="it is new"
        ),
        pytest.param(facts(bot(usable_keys=0, enabled=False)), CALM, CALM, id="a disabled one needs no keys"),
        pytest.param(facts(lane=old(300)), {"lane_old"}, CALM, id="a lane's oldest is old"),
        pytest.param(facts(lane=old(299)), CALM, {"lane_old"}, id="a lane's oldest is nearly old"),
        pytest.param(facts(lane=old(149)), CALM, CALM, id="a lane's oldest is young"),
        pytest.param(facts(lane=old(10, at_least=True)), CALM, {"lane_old"}, id="older than anybody knows"),
        pytest.param(facts(lane=old(301, at_least=True)), {"lane_old"}, CALM, id="surely old"),
        pytest.param(facts(dead=Queue(waiting=1)), CALM, CALM, id="fewer dead letters than matter"),
        pytest.param(facts(dead=Queue(waiting=2)), {"dead_letters"}, CALM, id="dead letters"),
        pytest.param(facts(books=old(61)), {"ledger_lag"}, CALM, id="the ledger lags"),
        pytest.param(facts(books=old(5, at_least=True)), CALM, {"ledger_lag"}, id="it may lag"),
        pytest.param(facts(silent(121)), {"no_heartbeat"}, CALM, id="silent for too long"),
        pytest.param(facts(silent(119)), CALM, CALM, id="silent for a moment"),
        pytest.param(facts(silent(121, enabled=False)), CALM, CALM, id="a disabled one may be silent"),
        pytest.param(
            facts(silent(GONE.total_seconds() + 1)), CALM, CALM, id="silent for a week: not expected"
        ),
        pytest.param(
            replace(facts(silent(121)), since=NOON - timedelta(seconds=60)),
            CALM,
            {"no_heartbeat"},
            id="nobody listened for long enough",
        ),
    ],
)
def test_what_stands_follows_from_what_is_known(known: Facts, standing: set[str], unsure: set[str]) -> None:
    found = findings(known, THRESHOLDS)
    assert {kind.value for kind, _ in found.standing} == standing
    assert {kind.value for kind, _ in found.unsure} == unsure
    assert found.kinds >= {kind for kind, _ in (*found.standing, *found.unsure)}
    for (kind, subject), alert in found.standing.items():
        assert (alert.kind, alert.subject, alert.window) == (kind, subject, "2026-03-10")


def test_a_reason_says_how_bad_it_is_and_why() -> None:
    for automation, queue, why in (
        (bot(paused=True), replace(old(400), consumers=0), "the lane is paused"),
        (BOT, replace(old(400), consumers=0), "no worker takes them"),
        (BOT, old(400), "workers take too few of them"),
    ):
        (alert,) = findings(facts(automation, lane=queue), THRESHOLDS).standing.values()
        assert alert.reason == f"7 requests wait, the oldest for 7 min: {why}"


def test_what_rabbitmq_does_not_say_stays_as_it_is() -> None:
    known = replace(facts(silent(121)), queues=None)
    found = findings(known, THRESHOLDS)
    assert {kind.value for kind, _ in found.standing} == {"no_heartbeat"}
    unseen = [(AlertKind.LANE_OLD, "bot"), (AlertKind.DEAD_LETTERS, DEAD), (AlertKind.LEDGER_LAG, BOOKS)]
    assert changes(found, unseen).over == []


@pytest.mark.parametrize("books", [old(61), old(5, at_least=True)])
def test_heartbeats_that_wait_to_be_booked_are_not_silence(books: Queue) -> None:
    found = findings(facts(silent(121), books=books), THRESHOLDS)
    assert AlertKind.NO_HEARTBEAT not in found.kinds


def test_only_what_differs_is_written() -> None:
    low: About = (AlertKind.POOL_LOW, "bot")
    found = findings(facts(bot(usable_keys=1)), THRESHOLDS)
    (alert,) = found.standing.values()
    assert changes(found, []) == Changes([alert], [])
    assert changes(found, [low]) == Changes([], [])
    assert changes(findings(facts(), THRESHOLDS), [low]) == Changes([], [low])
    assert changes(findings(facts(bot(usable_keys=0)), THRESHOLDS), [low]).over == []


def test_what_is_no_longer_there_is_over() -> None:
    gone = [(AlertKind.POOL_EMPTY, "removed"), (AlertKind.LANE_OLD, "removed")]
    assert sorted(gone) == changes(findings(facts(), THRESHOLDS), gone).over
    assert changes(Findings(), gone) == Changes([], [])

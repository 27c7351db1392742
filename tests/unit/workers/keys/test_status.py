"""A change of a key's status: what is written, and the event."""

import json
from datetime import timedelta

import pytest

from contracts.messages import KeyStatus
from infra.alerts import Alert, AlertKind
from tests.builders import NOON, key_document
from workers.keys.limits import CIRCUIT_FAILURES
from workers.keys.status import HISTORY_LENGTH, Cause, StatusChange

DAY = "2026-03-10"
LATER = NOON + timedelta(hours=12)
SPENT = StatusChange("exhausted", "the day is spent", LATER, "accounting", NOON, "day")


def test_a_change_is_written_with_its_reason_end_actor_and_time() -> None:
    written = SPENT.update(key_document())["$set"]
    assert written == {
        "status": "exhausted",
        "status_reason": "the day is spent",
        "status_until": LATER,
        "status_since": NOON,
        "status_actor": "accounting",
        "status_cause": "day",
    }


def test_a_change_goes_into_the_history_which_stays_short() -> None:
    pushed = SPENT.update(key_document(status="active"))["$push"]["history"]
    assert pushed["$each"] == [
        {
            "from": "active",
            "to": "exhausted",
            "reason": "the day is spent",
            "until": LATER,
            "actor": "accounting",
            "at": NOON,
        }
    ]
    assert pushed["$slice"] == -HISTORY_LENGTH


def test_a_key_that_is_active_again_starts_without_failures_and_cooldown() -> None:
    update = StatusChange("active", "probed", None, "cli", NOON).update(key_document(status="error"))
    assert update["$set"]["health.failures"] == 0
    assert update["$unset"].keys() == {"cooled_until", "ramp_since", "probe"}


def test_a_key_that_a_probe_brought_back_still_has_to_show_that_it_works() -> None:
    change = StatusChange("active", "probed", None, "probe", NOON, half_open=True)
    update = change.update(key_document(status="error"))
    assert update["$set"]["health.failures"] == CIRCUIT_FAILURES
    assert update["$unset"].keys() == {"cooled_until", "ramp_since", "probe.at"}


@pytest.mark.parametrize("to", ["disabled", "exhausted", "error"])
def test_a_key_that_stops_keeps_its_failures_and_cooldown(to: KeyStatus) -> None:
    update = StatusChange(to, "why", None, "cli", NOON).update(key_document())
    assert update["$unset"].keys() == {"probe"}
    assert not any(field.startswith("health") for field in update["$set"])


def test_the_event_tells_of_the_change_on_the_automations_own_routing_key() -> None:
    event = SPENT.event(key_document(status="active"))
    assert event["type"] == "key.status_changed.v1"
    assert event["routing_key"] == "key.status_changed.billing-bot"
    assert json.loads(event["body"]) == {
        "key_id": "key-1",
        "alias": "Primary",
        "from": "active",
        "to": "exhausted",
        "reason": "the day is spent",
        "until": "2026-03-11T00:00:00Z",
        "actor": "accounting",
        "occurred_at": "2026-03-10T12:00:00Z",
    }


@pytest.mark.parametrize(
    ("to", "cause", "kind"),
    [("error", "failing", "key_error"), ("exhausted", "day", "key_exhausted"), ("disabled", None, None)],
)
def test_a_key_that_stops_by_itself_is_alerted_once_a_day(
    to: KeyStatus, cause: Cause | None, kind: str | None
) -> None:
    alert = StatusChange(to, "why", None, "accounting", NOON, cause).alert(key_document())
    expected = None if kind is None else Alert(AlertKind(kind), "billing-bot", "key-1", "Primary", DAY, "why")
    assert alert == expected
    assert StatusChange("active", "why", None, "probe", NOON).alert(key_document()) is None


@pytest.mark.parametrize(("cause", "interval_s"), [("failing", 5), ("refused", 30), ("quota", 60)])
def test_a_key_that_stops_by_itself_is_probed(cause: Cause, interval_s: int) -> None:
    written = StatusChange("error", "why", None, "accounting", NOON, cause).update(key_document())["$set"]
    at = NOON + timedelta(seconds=interval_s)
    assert written["probe"] == {"at": at, "interval_s": interval_s, "cause": cause}

"""A change of a key's status: what is written, and the event."""

import json
from datetime import timedelta

import pytest

from contracts.messages import KeyStatus
from tests.builders import NOON, key_document
from workers.keys.status import HISTORY_LENGTH, StatusChange

LATER = NOON + timedelta(hours=12)
SPENT = StatusChange("exhausted", "the day is spent", LATER, "accounting", NOON)


def test_a_change_is_written_with_its_reason_end_actor_and_time() -> None:
    written = SPENT.update(key_document())["$set"]
    assert written == {
        "status": "exhausted",
        "status_reason": "the day is spent",
        "status_until": LATER,
        "status_since": NOON,
        "status_actor": "accounting",
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
    assert "cooled_until" in update["$unset"]


@pytest.mark.parametrize("to", ["disabled", "exhausted", "error"])
def test_a_key_that_stops_keeps_its_failures_and_cooldown(to: KeyStatus) -> None:
    update = StatusChange(to, "why", None, "cli", NOON).update(key_document())
    assert "$unset" not in update
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

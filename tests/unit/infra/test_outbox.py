"""What is put into the outbox is what is published later."""

import json
from datetime import UTC, datetime

from contracts import names
from contracts.messages import ConfigChanged, KeyStatusChanged
from infra.outbox import outgoing

AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
CHANGED = ConfigChanged(automation_id="billing-bot", what="key Primary added", actor="cli", occurred_at=AT)


def test_an_event_knows_its_type_and_where_it_goes() -> None:
    document = outgoing(names.CONFIG_CHANGED, "billing-bot", CHANGED)
    assert document["type"] == "config.changed.v1"
    assert document["routing_key"] == "config.changed.billing-bot"


def test_the_body_is_the_bytes_of_the_wire() -> None:
    event = KeyStatusChanged(
        key_id="key-1",
        alias="Primary",
        from_="active",
        to="error",
        reason="401",
        actor="accounting",
        occurred_at=AT,
    )
    body = outgoing(names.KEY_STATUS_CHANGED, "billing-bot", event)["body"]
    assert isinstance(body, bytes)
    assert json.loads(body) == {
        "key_id": "key-1",
        "alias": "Primary",
        "from": "active",
        "to": "error",
        "reason": "401",
        "until": None,
        "actor": "accounting",
        "occurred_at": "2026-03-10T12:00:00Z",
    }


def test_events_have_ids_of_their_own() -> None:
    one, two = (outgoing(names.CONFIG_CHANGED, "billing-bot", CHANGED) for _ in range(2))
    assert one["_id"] != two["_id"]

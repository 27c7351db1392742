"""What a delivery tells of, and why it is refused."""

import pytest

from contracts import names
from contracts.messages import UsageRecorded
from tests.builders import usage_recorded
from tests.unit.workers.accounting.deliveries import delivered
from workers.accounting.leases import Refused, Report
from workers.accounting.reading import SignOfLife, read

BEAT = b'{"version": "1", "host": "h", "started_at": "2026-03-10T12:00:00Z", "in_flight": 3}'
REPORT = b'{"lease_id": "l-1", "report_id": "1", "model": "gpt-4o-mini", "outcome": "ok"}'


def test_a_usage_event_is_read_as_it_was_told() -> None:
    event = usage_recorded()
    assert read(delivered(event.model_dump_json().encode())) == event


def test_whose_report_or_heartbeat_it_is_the_routing_key_says() -> None:
    report, beat = read(delivered(REPORT, names.USAGE_REPORTED)), read(delivered(BEAT, names.HEARTBEAT))
    assert isinstance(report, Report)
    assert (report.automation_id, report.lease_id) == ("billing-bot", "l-1")
    assert isinstance(beat, SignOfLife)
    assert (beat.automation_id, beat.heartbeat.in_flight) == ("billing-bot", 3)


@pytest.mark.parametrize(
    ("body", "event_type", "routing_key", "reason"),
    [
        (b"{}", names.USAGE_RECORDED, "heartbeat.billing-bot", "does not go with routing key"),
        (b"{}", "", "", "does not go with routing key"),
        (b"{}", "usage.made-up.v1", "usage.made-up.billing-bot", "no use for messages of type"),
        (b"not JSON", names.USAGE_RECORDED, None, "Invalid JSON"),
        (b"\xff", names.HEARTBEAT, None, "Invalid JSON"),
        (b"[" * 100_000, names.USAGE_RECORDED, None, "Invalid JSON"),
        (BEAT.replace(b"3}", b"-3}"), names.HEARTBEAT, None, "in_flight: Input should be greater than"),
    ],
)
def test_what_can_not_be_read_is_refused_with_its_reason(
    body: bytes, event_type: str, routing_key: str | None, reason: str
) -> None:
    refused = read(delivered(body, event_type, routing_key=routing_key))
    assert isinstance(refused, Refused)
    assert reason in refused.reason


def test_a_field_of_a_usage_event_that_is_wrong_is_named() -> None:
    wrong = usage_recorded().model_dump_json().replace('"prompt_tokens":19', '"prompt_tokens":"19"')
    assert not isinstance(read(delivered(wrong.encode())), UsageRecorded)
    assert read(delivered(wrong.encode())) == Refused("prompt_tokens: Input should be a valid integer")

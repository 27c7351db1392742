"""What a delivery tells of, and why it is refused."""

import pytest
from pamqp.commands import Basic

from contracts import names
from contracts.messages import UsageRecorded
from infra.bounds import LONGEST_MS, MOST_NANOUSD, MOST_TOKENS
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
        (BEAT.replace(b"3}", b"%d}" % 2**63), names.HEARTBEAT, None, "in_flight: expected at most"),
        (BEAT.replace(b'"h"', b'"%s"' % (b"h" * 201)), names.HEARTBEAT, None, "at most 200 characters"),
        (BEAT.replace(b"2026", b"1969"), names.HEARTBEAT, None, "started_at: expected 1970 to 2200"),
        (BEAT.replace(b"2026", b"9999"), names.HEARTBEAT, None, "started_at: expected 1970 to 2200"),
        (BEAT.replace(b"2026-03-10T12:00:00Z", b"0001-01-01T00:00:00+14:00"), names.HEARTBEAT, None, "1970"),
        (b" " * 70_000 + BEAT, names.HEARTBEAT, None, "bytes, more than the 65536"),
        (BEAT, names.HEARTBEAT, "heartbeat.billing-bot\n", "is no automation's id"),
        (BEAT, names.HEARTBEAT, "heartbeat.\\xff", "is no automation's id"),
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, MOST_TOKENS + 1) for name in ("prompt_tokens", "total_tokens", "reserved_tokens")),
        ("cached_tokens", 2**63),
        ("cost_nanousd", MOST_NANOUSD + 1),
        ("latency_ms", LONGEST_MS + 1),
    ],
)
def test_a_number_that_is_out_of_bounds_is_refused_by_its_name(field: str, value: int) -> None:
    refused = read(delivered(usage_recorded(**{field: value}).model_dump_json().encode()))
    assert isinstance(refused, Refused)
    assert refused.reason.startswith(f"{field}: expected at most")


def test_a_usage_event_of_another_automation_than_its_routing_key_says_is_refused() -> None:
    event = usage_recorded(automation_id="other-bot").model_dump_json().encode()
    refused = read(delivered(event))
    assert refused == Refused("automation_id: expected 'billing-bot', as in the routing key")


def test_properties_that_can_not_be_read_are_the_reason() -> None:
    message = delivered(BEAT, names.HEARTBEAT)
    message.header.properties.headers = {"x-keyway-undecodable": {"reason": "message_id is not UTF-8"}}
    assert read(message) == Refused("message_id is not UTF-8")


def test_an_event_that_came_through_an_exchange_of_an_automations_own_is_refused() -> None:
    message = delivered(usage_recorded().model_dump_json().encode())
    assert isinstance(message.delivery, Basic.Deliver)
    message.delivery.exchange = "replies.other-bot.tunnel"
    refused = read(message)
    assert isinstance(refused, Refused)
    assert "it came by exchange 'replies.other-bot.tunnel'" in refused.reason

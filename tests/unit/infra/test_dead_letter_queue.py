"""What is known of a dead letter, and what of it is published again."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aio_pika import DeliveryMode, Message
from aio_pika.message import IncomingMessage
from aiormq.abc import DeliveredMessage
from pamqp import header
from pamqp.commands import Basic

from contracts import names
from infra.dead_letter_facts import Wanted, everything_of, plain
from infra.dead_letter_queue import REOPENED_TTL, Letter, replayed, without_past_deadline
from workers.cli.dead import printable
from workers.generation import journal
from workers.generation.reading import LONGEST_DEADLINE_S

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DEATH = {
    "reason": "expired",
    "queue": "requests.billing-bot",
    "exchange": "requests",
    "routing-keys": ["billing-bot"],
    "time": NOW,
    "count": 1,
}
BODY = b'{"path": "/moderations", "body": {"input": "hello"}}'


def letter(
    routing_key: str = "billing-bot", body: bytes = BODY, *, redelivered: bool = False, **properties: Any
) -> Letter:
    """A letter as it is delivered."""
    message = Message(body, **{"message_id": "r-1", **properties})
    return Letter(
        IncomingMessage(
            DeliveredMessage(
                delivery=Basic.Deliver("tag", 7 + redelivered, redelivered, "dead", routing_key),
                header=header.ContentHeader(body_size=len(body), properties=message.properties),
                body=body,
                channel=None,  # type: ignore[arg-type]
            )
        )
    )


def test_an_id_stays_over_redeliveries_and_tells_letters_apart() -> None:
    same = letter(headers={"x-delivery-count": 4}, redelivered=True)
    assert letter().id == same.id
    assert len(letter().id) == 12
    died = letter(headers={names.DEATH_HEADER: [DEATH]})
    others = [letter("other-bot"), letter(body=b"{}"), letter(message_id="r-2"), died]
    assert len({letter().id, *(other.id for other in others)}) == 5


def test_a_workers_reason_comes_before_the_brokers() -> None:
    headers: dict[str, Any] = {names.DEATH_HEADER: [DEATH]}
    assert letter(headers=headers).reason == "expired in requests.billing-bot"
    assert letter(headers=headers | {names.REASON_HEADER: "internal: why"}).reason == "internal: why"
    assert letter().reason == "not given"


@pytest.mark.parametrize("odd", ["text", [], ["text"], [{"time": "noon"}], {"reason": "expired"}])
def test_an_odd_death_header_is_no_death(odd: Any) -> None:
    assert letter(headers={names.DEATH_HEADER: odd}).died_at is None


@pytest.mark.parametrize(
    ("routing_key", "exchange", "automation"),
    [
        ("billing-bot", "requests", "billing-bot"),
        ("leases.billing-bot", "requests", "billing-bot"),
        ("usage.recorded.billing-bot", "events", "billing-bot"),
        ("heartbeat.billing-bot", "events", "billing-bot"),
    ],
)
def test_where_a_letter_came_from_is_in_its_routing_key(
    routing_key: str, exchange: str, automation: str
) -> None:
    forged = {
        names.DEATH_HEADER: [{**DEATH, "exchange": "events", "routing-keys": ["usage.recorded.victim"]}]
    }
    found = letter(routing_key, headers=forged)
    assert (found.exchange, found.automation_id) == (exchange, automation)


def test_the_request_of_an_event_stands_in_its_body() -> None:
    key = "usage.recorded.billing-bot"
    assert letter(key, b'{"request_id": "r-9"}', message_id="e-1").request_id == "r-9"
    assert letter(key, b"not JSON", message_id="e-1").request_id == "e-1"
    assert letter(body=b'{"request_id": "r-9"}').request_id == "r-1"


def test_what_is_replayed_is_the_message_without_its_death() -> None:
    headers = {
        names.DEATH_HEADER: [DEATH],
        names.REASON_HEADER: "internal",
        "x-first-death-queue": "requests.billing-bot",
        "x-last-death-reason": "expired",
        "x-delivery-count": 3,
        "x-acquired-count": 3,
        "traceparent": "00-1-2-01",
    }
    found = letter(
        headers=headers,
        correlation_id="c-1",
        reply_to="replies.billing-bot",
        content_type="application/json",
        type=names.GENERATION_REQUEST,
        timestamp=NOW,
        expiration=5,
    )
    message = replayed(found, NOW)
    assert message.body == BODY
    assert message.headers == {"traceparent": "00-1-2-01"}
    assert (message.message_id, message.correlation_id) == ("r-1", "c-1")
    assert (message.reply_to, message.type) == ("replies.billing-bot", names.GENERATION_REQUEST)
    assert message.timestamp == NOW
    assert message.expiration is None
    assert message.delivery_mode is DeliveryMode.PERSISTENT


def test_a_message_without_an_id_gets_the_same_one_at_each_replay() -> None:
    without = letter(message_id=None)
    again = letter(message_id=None, redelivered=True)
    assert replayed(without, NOW).message_id == replayed(again, NOW).message_id == f"dead-{without.id}"


def test_a_deadline_that_is_over_is_taken_out_and_nothing_else() -> None:
    over = {**json.loads(BODY), "deadline": "2026-03-10T11:59:59Z", "metadata": {"n": 10**30}}
    kept = json.loads(without_past_deadline(json.dumps(over).encode(), NOW))
    assert kept == {name: value for name, value in over.items() if name != "deadline"}


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        b"not JSON",
        b"\xff",
        b'"a string"',
        b'{"deadline": "soon"}',
        b'{"deadline": null}',
        json.dumps({"deadline": (NOW + timedelta(seconds=1)).isoformat()}).encode(),
        b'{"deadline": "2026-03-10T11:59:59"}',
    ],
)
def test_any_other_body_stays_byte_for_byte(body: bytes) -> None:
    assert without_past_deadline(body, NOW) == body


def test_an_events_own_deadline_is_left_alone() -> None:
    body = b'{"deadline": "2020-01-01T00:00:00Z"}'
    assert replayed(letter("usage.recorded.billing-bot", body), NOW).body == body


def test_an_entry_waits_for_its_replay_as_long_as_a_claim_is_kept() -> None:
    assert timedelta(seconds=LONGEST_DEADLINE_S) + journal.CLAIM_MARGIN == REOPENED_TTL


def test_filters_hold_together() -> None:
    found = letter(headers={names.REASON_HEADER: "internal: Keyway failed"})
    assert Wanted()(found)
    assert Wanted(frozenset({found.id}), "billing-bot", "KEYWAY", "r-1")(found)
    assert not Wanted(frozenset({"0" * 12}))(found)
    assert not Wanted(automation_id="billing")(found)
    assert not Wanted(reason="expired")(found)
    assert not Wanted(request_id="r-")(found)


def test_all_that_a_letter_says_can_be_written_as_json() -> None:
    headers = {names.DEATH_HEADER: [DEATH], "blob": b"\xff", "count": 3}
    fields = everything_of(letter(headers=headers, body=b"\xff"))
    assert fields["body_base64"] == "/w=="
    assert fields["headers"]["blob"] == "\\xff"
    assert fields["headers"][names.DEATH_HEADER][0]["time"] == NOW
    assert plain(object).startswith("<class")


def test_a_message_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc\x9bd") == "a\N{REPLACEMENT CHARACTER}[31mb\nc\N{REPLACEMENT CHARACTER}d"

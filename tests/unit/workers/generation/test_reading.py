"""Reading: a delivery becomes a request or says what is wrong with it, without repeating what it says."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Path
from tests.builders import NOON, NOW, make_delivery
from workers.generation.json_bounds import MOST_CONTAINERS
from workers.generation.reading import Invalid, Request, read
from workers.generation.tokens import estimate_input

HELLO: dict[str, Any] = {"path": "/chat/completions", "body": {"model": "gpt-4o-mini", "messages": []}}
SECRET = "sk-very-secret-0123456789"


def read_body(body: object = HELLO, **properties: Any) -> Request | Invalid:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read(
        make_delivery(raw, **properties), "billing-bot", deadline_s=600, max_body_bytes=10_000, now=NOW
    )


def good(body: object = HELLO, **properties: Any) -> Request:
    request = read_body(body, **properties)
    assert isinstance(request, Request)
    return request


def bad(body: object = HELLO, **properties: Any) -> Invalid:
    request = read_body(body, **properties)
    assert isinstance(request, Invalid)
    return request


def test_a_request_is_read_with_its_envelope() -> None:
    request = good(HELLO | {"user_id": "u-42", "metadata": {"x": 1}}, reply_to="replies.billing-bot.one")
    assert request.path is Path.CHAT_COMPLETIONS
    assert request.body == HELLO["body"]
    assert request.model == "gpt-4o-mini"
    assert request.user_id == "u-42"
    envelope = request.envelope
    assert (envelope.automation_id, envelope.request_id, envelope.correlation_id) == (
        "billing-bot",
        "req-1",
        "c-1",
    )
    assert envelope.reply_to == "replies.billing-bot.one"
    assert envelope.received_at == NOW


def test_what_the_delivery_does_not_say_has_a_default() -> None:
    request = good(message_id=None, correlation_id=None, reply_to=None, type=None)
    assert request.user_id is None
    assert request.envelope.correlation_id is None
    assert request.envelope.reply_to is None
    assert request.envelope.published_at == request.envelope.received_at
    assert request.deadline == request.envelope.received_at + 600


@pytest.mark.parametrize("message_id", [None, ""])
def test_a_request_without_an_id_gets_one_of_its_own(message_id: str | None) -> None:
    ids = {good(message_id=message_id).envelope.request_id for _ in range(20)}
    assert len(ids) == 20
    assert all(0 < len(id_) <= 128 for id_ in ids)


@pytest.mark.parametrize("type_", [None, "", "generation.request.v1"])
def test_a_request_may_leave_out_its_type(type_: str | None) -> None:
    assert good(type=type_)


def test_an_empty_reply_to_is_none() -> None:
    assert good(reply_to="").envelope.reply_to is None


@pytest.mark.parametrize("model", [None, 4, ["gpt-4o-mini"]])
def test_a_model_that_is_no_text_is_none(model: object) -> None:
    assert good({"path": "/moderations", "body": {"model": model}}).model is None


@pytest.mark.parametrize("name", ["m" * 256, "é" * 256, ""])
def test_a_model_may_have_a_long_name(name: str) -> None:
    assert good({"path": "/moderations", "body": {"model": name}}).model == name


@pytest.mark.parametrize("name", ["m" * 257, "é" * 257])
def test_a_model_whose_name_is_too_long_is_refused_with_the_bound(name: str) -> None:
    invalid = bad({"path": "/moderations", "body": {"model": name}})
    assert invalid.reason == "body.model has 257 characters, expected at most 256"


def test_the_body_goes_to_the_provider_with_the_same_values() -> None:
    body = {
        "model": "m",
        "seed": 2**53 + 1,
        "big": 123456789012345678901234567890,
        "t": 0.1,
        "text": "schön 🎈",
        "deep": [{"a": [None, True]}],
    }
    assert json.loads(good({"path": "/responses", "body": body}).content) == body


@pytest.mark.parametrize(
    ("properties", "published_at"),
    [
        ({"headers": {"timestamp_in_ms": 1_700_000_000_250}}, 1_700_000_000.25),
        ({"timestamp": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)}, 1_700_000_000),
        ({"timestamp": datetime(2023, 11, 14, 22, 13, 20)}, 1_700_000_000),  # noqa: DTZ001  # AMQP's are UTC
        (
            {
                "headers": {"timestamp_in_ms": 1_700_000_000_250},
                "timestamp": datetime(2024, 1, 1, tzinfo=UTC),
            },
            1_700_000_000.25,
        ),
        (
            {"headers": {"timestamp_in_ms": "soon"}, "timestamp": datetime(2023, 11, 14, 22, 13, 20, 0, UTC)},
            1_700_000_000,
        ),
        ({"headers": None, "timestamp": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)}, 1_700_000_000),
    ],
)
def test_it_was_published_when_its_header_or_its_timestamp_says(
    properties: dict[str, Any], published_at: float
) -> None:
    assert good(**properties).envelope.published_at == published_at


@pytest.mark.parametrize(
    "properties",
    [
        {"headers": {"timestamp_in_ms": round(NOW * 1000) + 3_600_000}},
        {"timestamp": NOON + timedelta(seconds=1)},
    ],
)
def test_nothing_was_published_in_the_future(properties: dict[str, Any]) -> None:
    envelope = good(**properties).envelope
    assert envelope.published_at == envelope.received_at


@pytest.mark.parametrize(
    "properties",
    [
        {"headers": {"timestamp_in_ms": -(2**63)}},
        {"headers": {"timestamp_in_ms": 2**63 - 1}},
        {"headers": {"timestamp_in_ms": 0}},
        {"timestamp": datetime.max.replace(tzinfo=UTC)},
        {"timestamp": datetime(1970, 1, 1, tzinfo=UTC)},
    ],
)
def test_a_time_that_can_not_be_is_refused_and_not_counted_with(properties: dict[str, Any]) -> None:
    invalid = bad(**properties)
    assert "it was published at" in invalid.reason
    assert invalid.envelope.published_at == invalid.envelope.received_at


@pytest.mark.parametrize("text", ["a\x00b", "\x1b[2J", "a\nb", "\x7f", "\x85"])
def test_an_id_with_control_characters_is_refused(text: str) -> None:
    assert bad(message_id=text).reason == "message_id has control characters"


@pytest.mark.parametrize("text", ["ключ 🔑", "a b", "\u00a0", "\u200d"])
def test_an_id_may_be_any_text(text: str) -> None:
    assert good(message_id=text).envelope.request_id == text


def test_properties_that_can_not_be_read_are_the_reason() -> None:
    headers = {"x-keyway-undecodable": {"reason": "message_id is not UTF-8"}}
    assert bad(headers=headers).reason == "message_id is not UTF-8"


@pytest.mark.parametrize(
    "properties",
    [
        {"exchange": "replies.other-bot.tunnel"},
        {"routing_key": "other-bot"},
        {"headers": {"x-death": [{"queue": "replies.other-bot.delay", "reason": "expired"}]}},
    ],
)
def test_what_another_may_have_published_is_refused_and_not_answered(properties: dict[str, Any]) -> None:
    invalid = bad(reply_to="replies.billing-bot", **properties)
    assert "expected" in invalid.reason or "dead-lettered by" in invalid.reason
    assert invalid.envelope.reply_to is None


@pytest.mark.parametrize(
    "properties",
    [
        {"exchange": "", "routing_key": "requests.billing-bot"},
        {"headers": {"x-death": [{"queue": "replies.billing-bot.delay", "reason": "expired"}]}},
        {"headers": {"x-death": "odd"}},
    ],
)
def test_what_the_automation_or_an_operator_published_is_read(properties: dict[str, Any]) -> None:
    assert good(reply_to="replies.billing-bot", **properties).envelope.reply_to == "replies.billing-bot"


@pytest.mark.parametrize(("count", "deliveries"), [(3, 3), (-1, 0), (2**62, 0), (True, 0), ("9", 0)])
def test_deliveries_are_counted_within_bounds(count: Any, deliveries: int) -> None:
    assert good(headers={"x-delivery-count": count}).envelope.deliveries == deliveries


@pytest.mark.parametrize("ahead", [timedelta(hours=23, minutes=59), timedelta(seconds=-5), timedelta(0)])
def test_a_deadline_is_the_requests_own_within_a_day(ahead: timedelta) -> None:
    deadline = NOON + ahead
    assert good(HELLO | {"deadline": deadline.isoformat()}).deadline == deadline.timestamp()


@pytest.mark.parametrize("deadline", ["2999-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"])
def test_a_deadline_of_another_day_is_refused(deadline: str) -> None:
    assert "24 h" in bad(HELLO | {"deadline": deadline}).reason


def test_a_deadline_just_past_a_day_is_refused() -> None:
    deadline = NOON + timedelta(hours=24, seconds=1)
    assert "24 h" in bad(HELLO | {"deadline": deadline.isoformat()}).reason


@pytest.mark.parametrize(
    ("properties", "deadline"),
    [
        ({}, NOW + 600),
        ({"expiration": 30.0}, NOW + 30),
        ({"expiration": 900.0}, NOW + 600),
        ({"expiration": 30.0, "timestamp": NOON - timedelta(seconds=20)}, NOW + 10),
        ({"expiration": 30.0, "timestamp": NOON - timedelta(seconds=40)}, NOW - 10),
    ],
)
def test_a_messages_time_to_live_counts_from_its_publish_and_is_a_deadline_too(
    properties: dict[str, Any], deadline: float
) -> None:
    assert good(**properties).deadline == deadline


@pytest.mark.parametrize(
    ("body", "properties", "reason"),
    [
        (b"", {}, "Invalid JSON"),
        (b"hello", {}, "Invalid JSON"),
        (b'{"path": "/chat/completions", "body": {}', {}, "Invalid JSON"),
        (b'{"path": "\xff"}', {}, "Invalid JSON"),
        (b'{"path": "/responses", "body": {"x": NaN}}', {}, "Invalid JSON"),
        (b'{"path": "/responses", "body": {"x": Infinity}}', {}, "Invalid JSON"),
        (b'{"path": "/responses", "body": {"x": -Infinity}}', {}, "Invalid JSON"),
        (b"[]", {}, "object"),
        (b"null", {}, "object"),
        ({"body": {}}, {}, "path: Field required"),
        ({"path": "/chat/completions"}, {}, "body: Field required"),
        (HELLO | {"path": "/models"}, {}, "path: Input should be '/chat/completions'"),
        (HELLO | {"body": []}, {}, "body: Input should be"),
        (HELLO | {"dedline": "2026-11-24T10:00:00Z"}, {}, "dedline: Extra inputs are not permitted"),
        (HELLO | {"deadline": "2026-11-24T10:00:00"}, {}, "deadline: Input should have timezone info"),
        (HELLO | {"deadline": "soon"}, {}, "deadline: "),
        (HELLO | {"deadline": 1_764_000_000}, {}, "deadline: "),
        (HELLO | {"user_id": ""}, {}, "user_id: "),
        (HELLO | {"user_id": 7}, {}, "user_id: "),
        (HELLO | {"metadata": []}, {}, "metadata: "),
        (HELLO, {"type": "generation.request.v2"}, "expected 'generation.request.v1'"),
        (HELLO, {"message_id": "r" * 129}, "message_id has 129 characters, expected 1 to 128"),
        (HELLO, {"reply_to": "replies.billing"}, "replies.billing-bot[.<name>]"),
        (HELLO, {"reply_to": "replies.other"}, "replies.billing-bot[.<name>]"),
        (HELLO, {"reply_to": "accounting"}, "replies.billing-bot[.<name>]"),
        (b" " * 10_001, {}, "the body has 10001 bytes, more than the 10000 that are accepted"),
    ],
)
def test_a_wrong_delivery_says_what_is_wrong(body: object, properties: dict[str, Any], reason: str) -> None:
    assert reason in bad(body, **properties).reason


def test_a_body_as_large_as_may_be_is_read() -> None:
    assert good(json.dumps(HELLO).encode().ljust(10_000))


def test_a_wrong_request_is_still_answered_where_it_may_be() -> None:
    envelope = bad(b"hello", reply_to="replies.billing-bot").envelope
    assert (envelope.request_id, envelope.correlation_id, envelope.reply_to) == (
        "req-1",
        "c-1",
        "replies.billing-bot",
    )


def test_nobody_is_answered_where_the_automation_may_not_read() -> None:
    assert bad(reply_to="replies.other").envelope.reply_to is None


def test_an_id_that_is_too_long_is_cut_to_what_a_result_may_have() -> None:
    assert bad(message_id="r" * 500).envelope.request_id == "r" * 128


@pytest.mark.parametrize(
    "body",
    [
        f'"{SECRET}"'.encode(),
        f"{SECRET}".encode(),
        f'{{"path": "/chat/completions", "body": {{"k": "{SECRET}"'.encode(),
        [SECRET],
        HELLO | {"path": SECRET},
        HELLO | {"body": SECRET},
        HELLO | {"body": [SECRET]},
        HELLO | {"user_id": SECRET * 20},
        HELLO | {"user_id": [SECRET]},
        HELLO | {"deadline": SECRET},
        HELLO | {"metadata": SECRET},
        HELLO | {"api_key": SECRET},
    ],
)
def test_no_value_of_a_wrong_request_is_in_the_reason(body: object) -> None:
    assert SECRET not in bad(body).reason


@given(st.binary(max_size=60), st.text(max_size=20), st.text(max_size=150), st.text(max_size=20))
def test_any_delivery_is_read_or_refused(body: bytes, type_: str, message_id: str, reply_to: str) -> None:
    request = read_body(body, type=type_, message_id=message_id, reply_to=reply_to)
    assert isinstance(request, Invalid)
    assert request.reason
    assert 1 <= len(request.envelope.request_id) <= 128


def test_a_request_says_how_many_tokens_its_body_is_expected_to_have() -> None:
    request = read_body(HELLO)
    assert isinstance(request, Request)
    assert request.input_tokens == estimate_input(request.body) > 1


def test_a_body_of_very_many_values_is_refused_before_it_is_parsed() -> None:
    body = b'{"path": "/moderations", "body": {"input": [' + b"[]," * MOST_CONTAINERS + b"0]}}"
    request = read(make_delivery(body), "billing-bot", deadline_s=600, max_body_bytes=len(body), now=NOW)
    assert isinstance(request, Invalid)
    assert request.reason == "the body has more values than are read"

"""What the client makes of its address and of a request, before it connects."""

import pytest
from pydantic import ValidationError

from contracts import GenerationRequest, Keyway, SyncKeyway
from contracts.client import users_of
from contracts.request_message import request_message


@pytest.mark.parametrize(
    ("url", "automation_id"),
    [
        ("amqp://billing-bot:t@localhost/keyway", "billing-bot"),
        ("amqp://billing-bot.next:t@localhost/keyway", "billing-bot"),
        ("amqps://billing-bot:t@localhost/keyway?cafile=x", "billing-bot"),
    ],
)
def test_the_automation_is_the_user_of_the_address(url: str, automation_id: str) -> None:
    assert Keyway(url)._automation_id == automation_id


@pytest.mark.parametrize("user", ["", "Billing", "a.b", ".next", "a.next.next"])
@pytest.mark.parametrize("client", [Keyway, SyncKeyway])
def test_another_user_is_refused(user: str, client: type[Keyway | SyncKeyway]) -> None:
    with pytest.raises(ValueError, match="is not an automation's id; it is the user in the address"):
        client(f"amqp://{user}:token@localhost/keyway")


def test_no_token_is_in_the_error() -> None:
    with pytest.raises(ValueError, match="not an automation's id") as raised:
        Keyway("amqp://A:secret-token@localhost/keyway")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("user", "users"),
    [
        ("bot", ("bot", "bot.next")),
        ("bot.next", ("bot.next", "bot")),
        ("operator", ("operator",)),
        (None, (None,)),
    ],
)
def test_a_token_is_tried_with_both_users_of_a_rotation(
    user: str | None, users: tuple[str | None, ...]
) -> None:
    assert users_of(user, "bot") == users


def test_a_query_of_the_address_is_kept_and_wins() -> None:
    url = Keyway("amqps://bot:t@localhost/keyway?cafile=ca.pem&heartbeat=3")._connection._url
    assert dict(url.query) == {"cafile": "ca.pem", "heartbeat": "3", "name": "keyway client bot"}


def test_a_request_says_what_was_asked_and_nothing_that_was_not() -> None:
    message = request_message(
        "r-1",
        "/moderations",
        {"input": "x"},
        user=None,
        timeout=60,
        metadata=None,
        reply_to="replies.bot.x",
        trace={"traceparent": "t"},
    )
    assert (message.message_id, message.correlation_id, message.reply_to) == ("r-1", "r-1", "replies.bot.x")
    assert message.headers["traceparent"] == "t"
    request = GenerationRequest.model_validate_json(message.body)
    assert (request.body, request.user_id, request.metadata) == ({"input": "x"}, None, {})
    assert b"metadata" not in message.body


@pytest.mark.parametrize(
    ("path", "body", "user"),
    [("/models", {}, None), ("/moderations", {"input": {1, 2}, "x": object()}, None)],
)
def test_what_is_no_request_is_a_value_error(path: str, body: dict[str, object], user: str | None) -> None:
    with pytest.raises(ValueError, match=r"path|serialize"):
        request_message(
            "r-1", path, body, user=user, timeout=60, metadata=None, reply_to="replies.bot", trace={}
        )


def test_a_user_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="user_id"):
        request_message(
            "r-1", "/moderations", {}, user="", timeout=60, metadata=None, reply_to="replies.bot", trace={}
        )

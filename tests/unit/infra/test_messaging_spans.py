"""What spans tell of messages."""

from typing import Any

import pytest

from infra.messaging_spans import consumed, published
from tests.builders import make_delivery


def delivery(**properties: Any) -> Any:
    message = make_delivery(b"12345", **properties)
    message.exchange = "requests"  # type: ignore[misc]
    return message


def test_a_message_that_is_processed_is_named_with_where_it_came_from() -> None:
    assert consumed(delivery(), "requests.billing-bot") == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "requests:billing-bot:requests.billing-bot",
        "messaging.rabbitmq.destination.routing_key": "billing-bot",
        "messaging.message.id": "req-1",
        "messaging.message.conversation_id": "c-1",
        "messaging.message.body.size": 5,
    }


def test_what_a_message_does_not_say_is_not_told() -> None:
    told = consumed(delivery(message_id=None, correlation_id=None), "requests.billing-bot")
    assert not {"messaging.message.id", "messaging.message.conversation_id"} & told.keys()


@pytest.mark.parametrize(
    ("exchange", "routing_key", "destination"),
    [("events", "usage.recorded.bot", "events:usage.recorded.bot"), ("", "replies.bot", "replies.bot")],
)
def test_a_message_that_is_published_is_told_of_by_where_it_goes(
    exchange: str, routing_key: str, destination: str
) -> None:
    assert published(exchange, routing_key, b"123") == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": destination,
        "messaging.rabbitmq.destination.routing_key": routing_key,
        "messaging.message.body.size": 3,
    }

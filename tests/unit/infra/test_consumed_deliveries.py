"""A delivery below aio-pika says of a message what aio-pika's says."""

from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import pytest
from aio_pika.message import IncomingMessage
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from infra.consumed_deliveries import ConsumedDelivery
from infra.deliveries import Delivery

SAID = [name for name, value in vars(Delivery).items() if isinstance(value, property)]


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"message_id": "", "correlation_id": "", "reply_to": "", "message_type": ""},
        {
            "content_type": "application/json",
            "message_type": "generation.request.v1",
            "message_id": "r-1",
            "correlation_id": "c-1",
            "reply_to": "replies.bot",
            "expiration": "1500",
            "timestamp": datetime(2026, 11, 24, tzinfo=UTC),
            "headers": {"x-delivery-count": 2},
        },
    ],
    ids=["without properties", "with empty ones", "with all"],
)
def test_a_delivery_says_what_aio_pikas_says(properties: dict[str, Any]) -> None:
    frame = Basic.Deliver(
        consumer_tag="t", delivery_tag=7, redelivered=True, exchange="requests", routing_key="bot"
    )
    header = ContentHeader(body_size=2, properties=Basic.Properties(**properties))
    message = DeliveredMessage(frame, header, b"{}", Mock())
    ours, theirs = ConsumedDelivery(message, Mock(), Mock()), IncomingMessage(message)
    assert len(SAID) == 12
    assert {name: getattr(ours, name) for name in SAID} == {name: getattr(theirs, name) for name in SAID}

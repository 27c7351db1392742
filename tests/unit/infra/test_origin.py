"""A delivery that went round RabbitMQ's checks is told from one that did not."""

from typing import Any

import pytest

from infra.origin import misrouted


def way(**changes: Any) -> str | None:
    came = {"exchange": "requests", "routing_key": "bot", "headers": {}}
    return misrouted(**(came | changes), expected=("requests", "bot"), automation_id="bot")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"headers": None},
        {"exchange": "", "routing_key": "requests.bot"},
        {"headers": {"x-death": [{"queue": "replies.bot.later", "reason": "expired"}]}},
        {"headers": {"x-death": [{"queue": "requests.bot", "reason": "expired"}]}},
        # The broker's own are never so: these came with the message.
        {"headers": {"x-death": ["replies.bot", {"queue": 7}, {}]}},
        {"headers": {"x-death": "replies.bot"}},
    ],
)
def test_what_came_as_the_broker_checks_it_is_the_automations(changes: dict[str, Any]) -> None:
    assert way(**changes) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"routing_key": "thief"}, "routing key 'thief'"),
        ({"exchange": "replies.thief.x"}, "exchange 'replies.thief.x'"),
        ({"headers": {"x-death": [{"queue": "replies.thief"}, {"queue": "replies.bot"}]}}, "dead-lettered"),
        ({"headers": {"x-death": [{"queue": "replies.bot-2"}]}}, "dead-lettered"),
        ({"headers": {"x-death": [{"queue": "replies.bot"}, {"queue": "replies.thief"}]}}, "dead-lettered"),
    ],
)
def test_what_went_round_the_checks_is_said_to_have(changes: dict[str, Any], why: str) -> None:
    assert why in str(way(**changes))

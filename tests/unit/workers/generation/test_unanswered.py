"""Which dead letters the broker made by itself, so that they still want an answer."""

from typing import Any

import pytest

from contracts.errors import ErrorCode
from tests.builders import make_delivery
from workers.generation.unanswered import ended_by_broker

LANE = "requests.billing-bot"
CAME_BY = {"exchange": "requests", "routing-keys": ["billing-bot"]}


def ended(deaths: Any, **headers: Any) -> tuple[str, ErrorCode] | None:
    if isinstance(deaths, list):
        deaths = [CAME_BY | death if isinstance(death, dict) else death for death in deaths]
    found = ended_by_broker(make_delivery(b"{}", headers={"x-death": deaths, **headers}))
    return None if found is None else (found[0], found[1].code)


@pytest.mark.parametrize(
    ("reason", "code"),
    [("expired", ErrorCode.DEADLINE_EXCEEDED), ("delivery_limit", ErrorCode.INTERNAL)],
)
def test_a_request_that_the_broker_ended_is_answered(reason: str, code: ErrorCode) -> None:
    assert ended([{"reason": reason, "queue": LANE}]) == ("billing-bot", code)


@pytest.mark.parametrize(
    "deaths",
    [
        None,
        [],
        "expired",
        ["expired"],
        [{"reason": "rejected", "queue": LANE}],
        [{"reason": "expired", "queue": "accounting"}],
        [{"reason": "expired", "queue": "requests.other-bot"}],
        [{"reason": "expired"}],
        [{"reason": "expired", "queue": LANE, "exchange": "replies.other-bot.tunnel"}],
        [{"reason": "expired", "queue": LANE, "routing-keys": ["other-bot", "billing-bot"]}],
        [{"reason": "expired", "queue": LANE, "routing-keys": "billing-bot"}],
        [{"reason": "expired", "queue": LANE}, {"reason": "expired", "queue": "replies.other-bot.delay"}],
        # The last death counts.
        [{"reason": "rejected", "queue": LANE}, {"reason": "expired", "queue": LANE}],
    ],
)
def test_everything_else_wants_no_answer(deaths: Any) -> None:
    assert ended(deaths) is None


def test_what_a_worker_dead_lettered_was_answered_by_it() -> None:
    assert ended([{"reason": "expired", "queue": LANE}], **{"x-keyway-reason": "invalid_request: …"}) is None


def test_a_dead_letter_without_headers_wants_no_answer() -> None:
    assert ended_by_broker(make_delivery(b"{}", headers=None)) is None

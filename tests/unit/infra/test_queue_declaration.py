"""How a declaration follows a queue that is there with other settings, in RabbitMQ's own words."""

import pytest

from infra.queue_declaration import DeclaredQueue, as_it_is

QUEUE = DeclaredQueue("q", {"x-queue-type": "quorum", "x-max-length": 10, "x-overflow": "reject-publish"})
ABOUT = (
    "PRECONDITION_FAILED - inequivalent arg '{}' for queue 'q' in vhost '/': received {} but current is {}"
)

TEN = "the value '10' of type 'signedint'"


@pytest.mark.parametrize(
    ("name", "received", "current", "expected"),
    [
        ("x-max-length", "'10'", "'2'", {"x-max-length": 2}),
        (
            "x-max-length",
            "the value '10' of type 'signedint'",
            "the value '2' of type 'long'",
            {"x-max-length": 2},
        ),
        ("x-delivery-limit", "none", "the value '20' of type 'signedint'", {"x-delivery-limit": 20}),
        (
            "x-single-active-consumer",
            "none",
            "the value 'true' of type 'bool'",
            {"x-single-active-consumer": True},
        ),
        ("x-overflow", "'reject-publish'", "'drop-head'", {"x-overflow": "drop-head"}),
    ],
)
def test_a_setting_that_differs_is_taken_as_it_is(
    name: str, received: str, current: str, expected: dict[str, object]
) -> None:
    adapted = as_it_is(QUEUE, ABOUT.format(name, received, current))
    assert adapted is not None
    assert adapted.arguments == {**QUEUE.arguments, **expected}


def test_a_setting_that_is_not_there_is_left_out() -> None:
    adapted = as_it_is(QUEUE, ABOUT.format("x-max-length", TEN, "none"))
    assert adapted is not None
    assert adapted.arguments == {"x-queue-type": "quorum", "x-overflow": "reject-publish"}


@pytest.mark.parametrize(
    "reason",
    [
        ABOUT.format("x-queue-type", "the value 'quorum' of type 'longstr'", "none"),
        ABOUT.format("x-queue-type", "'quorum'", "'classic'"),
        ABOUT.format("durable", "'true'", "'false'"),
        ABOUT.format("x-max-length", "'10'", "'10'"),
        "ACCESS_REFUSED - access to queue 'q' in vhost 'v' refused for user 'u'",
        "",
    ],
)
def test_what_is_more_than_a_setting_is_refused(reason: str) -> None:
    assert as_it_is(QUEUE, reason) is None

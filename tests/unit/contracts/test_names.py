"""Names and permissions: what an automation may be called, and what the broker lets it touch."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from contracts import names

IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@pytest.mark.parametrize("text", ["a", "0", "billing-bot", "a--b", "9-", "a" * 63])
def test_these_are_automation_ids(text: str) -> None:
    assert names.is_automation_id(text)


@pytest.mark.parametrize(
    "text",
    ["", "-a", "A", "a.b", "a_b", "a b", "a*", "a#", "a/b", "é", "a\n", "\na", "a" * 64, "billing-bot\n"],
)
def test_these_are_no_automation_ids(text: str) -> None:
    assert not names.is_automation_id(text)


def test_the_names_of_an_automation_are_those_of_the_wire() -> None:
    assert names.lane_queue("billing-bot") == "requests.billing-bot"
    assert names.lease_queue("billing-bot") == "leases.billing-bot"


@pytest.mark.parametrize(
    ("message_type", "routing_key"),
    [
        (names.USAGE_RECORDED, "usage.recorded.billing-bot"),
        (names.USAGE_REPORTED, "usage.reported.billing-bot"),
        (names.HEARTBEAT, "heartbeat.billing-bot"),
        (names.KEY_STATUS_CHANGED, "key.status_changed.billing-bot"),
        (names.BUDGET_CROSSED, "budget.crossed.billing-bot"),
        (names.CONFIG_CHANGED, "config.changed.billing-bot"),
    ],
)
def test_an_event_is_routed_by_its_type_without_version_and_by_automation(
    message_type: str, routing_key: str
) -> None:
    assert names.event_routing_key(message_type, "billing-bot") == routing_key


@pytest.mark.parametrize(
    "reply_to",
    [
        "amq.rabbitmq.reply-to.g1h2AA.x",
        "replies.bill",
        "replies.bill.one",
        "replies.bill.a.b",
        "replies.bill.-",
    ],
)
def test_an_answer_may_go_to_the_automations_own_places(reply_to: str) -> None:
    assert names.may_reply_to("bill", reply_to)


@pytest.mark.parametrize(
    "reply_to",
    [
        "",
        "replies",
        "replies.",
        "replies.bil",
        "replies.bill.",
        "replies.billing-bot",
        "replies.bill-2",
        "replies.billX.one",
        "replies.other.replies.bill",
        "xreplies.bill",
        "Replies.bill",
        "repliesXbill",
        "requests.bill",
        "leases.bill",
        "accounting",
        "dead",
        "amq.rabbitmq.reply-toX",
        "amq.gen-abc",
    ],
)
def test_an_answer_goes_nowhere_else(reply_to: str) -> None:
    assert not names.may_reply_to("bill", reply_to)


@given(IDS, IDS, st.text(max_size=8))
def test_no_automations_answer_goes_to_anothers_queue(own: str, other: str, rest: str) -> None:
    assume(own != other)
    assert not names.may_reply_to(own, f"replies.{other}")
    assert not names.may_reply_to(own, f"replies.{other}.{rest}")


OWN_QUEUES = ("replies.billing-bot", "replies.billing-bot.durable", "replies.billing-bot.a.b")
FOREIGN_NAMES = (
    "",
    "amq.default",
    "amq.gen-x",
    "dead",
    "accounting",
    "requests.billing-bot",
    "leases.billing-bot",
    "replies.bill",
    "replies.billing-bot2",
    "replies.billing-botX.durable",
    "replies.billing-bot.",
    "repliesXbilling-bot",
    "xreplies.billing-bot",
    "requestsX",
    "events2",
)


@pytest.mark.parametrize("permission", ["configure", "write", "read"])
def test_an_automation_has_its_own_reply_queues_and_nobody_elses(permission: str) -> None:
    pattern = names.permissions("billing-bot")[permission]
    assert [name for name in OWN_QUEUES if not re.search(pattern, name)] == []
    assert [name for name in FOREIGN_NAMES if re.search(pattern, name)] == []


@pytest.mark.parametrize(("permission", "may"), [("configure", False), ("write", True), ("read", False)])
@pytest.mark.parametrize("exchange", ["requests", "events"])
def test_an_automation_may_only_write_to_the_exchanges(permission: str, exchange: str, may: bool) -> None:
    assert bool(re.search(names.permissions("billing-bot")[permission], exchange)) is may


@pytest.mark.parametrize(
    ("exchange", "routing_key", "may"),
    [
        ("requests", "billing-bot", True),
        ("requests", "leases.billing-bot", True),
        ("requests", "other", False),
        ("requests", "leases.other", False),
        ("requests", "billing-bot.x", False),
        ("requests", "x.billing-bot", False),
        ("requests", "leasesXbilling-bot", False),
        ("requests", "leases.leases.billing-bot", False),
        ("requests", "#", False),
        ("events", "usage.reported.billing-bot", True),
        ("events", "heartbeat.billing-bot", True),
        ("events", "usage.recorded.billing-bot", False),
        ("events", "key.status_changed.billing-bot", False),
        ("events", "config.changed.billing-bot", False),
        ("events", "usage.reported.other", False),
        ("events", "usageXreported.billing-bot", False),
        ("events", "heartbeat.billing-bot.x", False),
        ("events", "billing-bot", False),
    ],
)
def test_an_automation_writes_with_its_own_routing_keys_only(
    exchange: str, routing_key: str, may: bool
) -> None:
    pattern = names.topic_permissions("billing-bot")[exchange]
    assert bool(re.search(pattern, routing_key)) is may


@given(IDS, IDS)
def test_no_pattern_of_one_automation_takes_a_name_of_another(own: str, other: str) -> None:
    assume(own != other)
    foreign = [f"replies.{other}", f"replies.{other}.x", names.lane_queue(other), names.lease_queue(other)]
    for pattern in names.permissions(own).values():
        assert not any(re.search(pattern, name) for name in foreign)
    topics = names.topic_permissions(own)
    assert not re.search(topics["requests"], other)
    assert not re.search(topics["events"], f"heartbeat.{other}")


@pytest.mark.parametrize("id_", ["a.c", "a+c", "a|c", "(ac)", "[ac]"])
def test_ids_are_taken_literally_in_patterns(id_: str) -> None:
    patterns = [*names.permissions(id_).values()]
    for pattern in patterns:
        assert re.search(pattern, f"replies.{id_}")
        assert not re.search(pattern, "replies.abc")
        assert not re.search(pattern, "replies.a")
    assert re.search(names.topic_permissions(id_)["requests"], id_)
    assert not re.search(names.topic_permissions(id_)["requests"], "abc")


@pytest.mark.parametrize("name", ["nightly", "a.b", "A-1_x", "x" * 100])
def test_a_durable_reply_queue_is_one_that_answers_may_go_to(name: str) -> None:
    queue = names.reply_queue("bot", name)
    assert queue == f"replies.bot.{name}"
    assert names.may_reply_to("bot", queue)
    assert not names.may_reply_to("other", queue)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a\n", "x" * 101])
def test_other_names_of_durable_reply_queues_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't name a reply queue"):
        names.reply_queue("bot", name)

"""Everything stored that expires does so on MongoDB's clock, however wrong the clocks of processes are."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from pydantic import SecretStr

from contracts import names
from infra.mongo import Document, Mongo
from infra.outbox import announce, publish_outbox
from tests.harness import World
from workers.console.access.failures import WINDOW, Failures, TooManyFailuresError
from workers.console.access.operators import Operators, Role
from workers.console.access.sessions import IDLE, LONGEST, TOUCH, ApiTokens, Sessions

WRONG = (timedelta(minutes=-70), timedelta(0), timedelta(minutes=70), timedelta(hours=30))
#: The clocks of two processes, of which one writes and the other judges.
PAIRS = [(one, other) for one in WRONG for other in WRONG]
#: How far two readings of MongoDB's clock in one test may lie apart.
NEAR = timedelta(minutes=2)


@contextmanager
def clock_off_by(wrong: timedelta) -> Iterator[None]:
    """Have this process's clock be wrong; the monotonic one is not touched."""
    with time_machine.travel(datetime.now(UTC) + wrong, tick=True):
        yield


@pytest.fixture
async def operator(unserved: World) -> str:
    """An operator of this test only."""
    name = f"op-{secrets.token_hex(4)}"
    await Operators(unserved.mongo).add(name, Role.ADMIN)
    return name


async def age(mongo: Mongo, collection: str, name: str, by: timedelta) -> None:
    """Have all times of an operator's documents lie further back."""
    fields = ("created_at", "seen_at", "expires_at")
    older: Document = {
        field: {"$subtract": [f"${field}", by // timedelta(milliseconds=1)]} for field in fields
    }
    await mongo.database[collection].update_many({"username": name}, [{"$set": older}])


@pytest.mark.parametrize(("writer", "judge"), PAIRS)
async def test_a_session_lives_as_long_as_it_should(
    unserved: World, operator: str, writer: timedelta, judge: timedelta
) -> None:
    sessions = Sessions(unserved.mongo)
    with clock_off_by(writer):
        cookie = (await sessions.start(operator)).get_secret_value()
    with clock_off_by(judge):
        assert await sessions.caller(cookie)
        await age(unserved.mongo, "sessions", operator, IDLE - NEAR)
        assert await sessions.caller(cookie), "it was used, and begins to be idle anew"
        await age(unserved.mongo, "sessions", operator, IDLE - NEAR)
        assert await sessions.caller(cookie, active=False), "a page that is merely open keeps nothing"
        await age(unserved.mongo, "sessions", operator, NEAR)
        assert await sessions.caller(cookie) is None


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_session_that_is_used_all_the_time_ends_too(
    unserved: World, operator: str, wrong: timedelta
) -> None:
    sessions = Sessions(unserved.mongo)
    with clock_off_by(wrong):
        cookie = (await sessions.start(operator)).get_secret_value()
        steps = LONGEST // (IDLE / 2)
        for _ in range(steps - 1):
            await age(unserved.mongo, "sessions", operator, IDLE / 2)
            assert await sessions.caller(cookie)
        await age(unserved.mongo, "sessions", operator, IDLE / 2)
        assert await sessions.caller(cookie) is None


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_session_s_last_request_is_written_down_once_a_minute(
    unserved: World, operator: str, wrong: timedelta
) -> None:
    sessions = Sessions(unserved.mongo)

    async def seen_at() -> datetime:
        found = await unserved.mongo.sessions.find_one({"username": operator})
        assert found
        seen: datetime = found["seen_at"]
        return seen

    with clock_off_by(wrong):
        cookie = (await sessions.start(operator)).get_secret_value()
        first = await seen_at()
        await sessions.caller(cookie)
        assert await seen_at() == first
        await age(unserved.mongo, "sessions", operator, TOUCH)
        await sessions.caller(cookie)
        assert await seen_at() >= first


@pytest.mark.parametrize(("writer", "judge"), PAIRS)
async def test_a_script_s_token_lives_as_long_as_it_should(
    unserved: World, operator: str, writer: timedelta, judge: timedelta
) -> None:
    tokens = ApiTokens(unserved.mongo)
    with clock_off_by(writer):
        _, token = await tokens.add(operator, "for a day", Role.VIEWER, days=1)
        _, lasting = await tokens.add(operator, "for good", Role.VIEWER, days=None)
    day = timedelta(days=1)
    with clock_off_by(judge):
        await age(unserved.mongo, "api_tokens", operator, day - NEAR)
        assert await tokens.caller(token.get_secret_value())
        await age(unserved.mongo, "api_tokens", operator, NEAR)
        assert await tokens.caller(token.get_secret_value()) is None
        assert await tokens.caller(lasting.get_secret_value())


@pytest.mark.parametrize(("writer", "judge"), PAIRS)
async def test_failures_count_for_as_long_as_they_should(
    unserved: World, writer: timedelta, judge: timedelta
) -> None:
    subject, failures = f"test:{secrets.token_hex(4)}", Failures(unserved.mongo)
    with clock_off_by(writer):
        await failures.count(subject, 1)
    with clock_off_by(judge):
        with pytest.raises(TooManyFailuresError) as caught:
            await failures.count(subject, 1)
        assert (WINDOW - NEAR).total_seconds() < caught.value.retry_after_s <= WINDOW.total_seconds()
        over = {"$subtract": ["$expires_at", WINDOW // timedelta(milliseconds=1)]}
        await unserved.mongo.sign_in_failures.update_one({"_id": subject}, [{"$set": {"expires_at": over}}])
        await failures.count(subject, 1)


async def test_events_are_published_in_the_order_in_which_they_were_put_into_the_outbox(
    unserved: World,
) -> None:
    mongo = unserved.mongo
    await mongo.outbox.delete_many({})
    for number, wrong in enumerate((*reversed(WRONG), *WRONG)):
        with clock_off_by(wrong):
            await announce(mongo, f"bot-{number}", "changed", "tests")
    sent: list[str] = []

    async def publish(event: Document) -> None:
        sent.append(event["routing_key"])

    await publish_outbox(mongo, publish)
    assert sent == [
        names.event_routing_key(names.CONFIG_CHANGED, f"bot-{number}") for number in range(2 * len(WRONG))
    ]


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_an_operator_adds_and_begins_was_done_at_mongodb_s_time(
    unserved: World, wrong: timedelta
) -> None:
    before = await unserved.mongo.server_time()
    with clock_off_by(wrong):
        bot = await unserved.add_automation()
        await unserved.keys.add(bot, "Primary", SecretStr(f"sk-test-{secrets.token_hex(16)}"))
        await unserved.provisioner.tokens.begin_rotation(bot, actor="tests")
        name = f"op-{secrets.token_hex(4)}"
        await Operators(unserved.mongo).add(name, Role.VIEWER)
    after = await unserved.mongo.server_time()
    automation = await unserved.mongo.automations.find_one({"_id": bot})
    key = await unserved.mongo.keys.find_one({"automation_id": bot})
    operator = await unserved.mongo.operators.find_one({"_id": name})
    assert automation
    assert key
    assert operator
    times = [
        automation["created_at"],
        automation["rotation"]["since"],
        key["created_at"],
        key["status_since"],
        operator["created_at"],
    ]
    assert [at for at in times if not before <= at <= after] == []

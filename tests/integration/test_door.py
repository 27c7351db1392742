"""The broker is the door: what an automation's own RabbitMQ user may not do, RabbitMQ refuses."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from aio_pika import Message, connect
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed
from pydantic import SecretStr

from contracts import Keyway, names
from contracts.errors import AutomationDisabledError, PublishError
from contracts.messages import Outcome, UsageRecorded
from tests.collector import BODY, Collector
from tests.harness import ACTOR, PATIENCE_S, World, eventually


@pytest.fixture(params=["own", "next"])
def which(request: pytest.FixtureRequest) -> str:
    """As which of its users an automation signs in: its own, or the second while its token rotates."""
    return str(request.param)


@pytest.fixture
async def pair(shared: World, which: str) -> AsyncIterator[tuple[str, str, AbstractConnection]]:
    """An automation, another one, and a plain AMQP connection as the first."""
    bot, other = await shared.add_automation(), await shared.add_automation()
    url = shared.url_of(bot)
    if which == "next":
        rotation = await shared.provisioner.tokens.begin_rotation(bot, actor=ACTOR)
        url = shared.url_of(rotation.user, rotation.token)
    async with await connect(url) as connection:
        yield bot, other, connection


def usage_recorded(bot: str) -> UsageRecorded:
    return UsageRecorded(
        event_id="r-1:0",
        request_id="r-1",
        automation_id=bot,
        key_id="key-1",
        key_alias="Primary",
        path="/chat/completions",
        model="gpt-4o-mini",
        outcome=Outcome.OK,
        cost_nanousd=0,
        price_known=True,
        latency_ms=1,
        reserved_tokens=0,
        occurred_at=datetime.now(UTC),
    )


#: What is tried: exchange, routing key, and the user that the message says it is from.
FORBIDDEN_PUBLISHES = {
    "another automation's lane": ("requests", "{other}", None),
    "another's leases": ("requests", "leases.{other}", None),
    "a lane through the default exchange": ("", "requests.{other}", None),
    "its own lane through the default exchange": ("", "requests.{bot}", None),
    "the books": ("events", "usage.recorded.{bot}", None),
    "a key's status": ("events", "key.status_changed.{bot}", None),
    "another's heartbeat": ("events", "heartbeat.{other}", None),
    "another's report of usage": ("events", "usage.reported.{other}", None),
    "dead letters": ("dead", "{bot}", None),
    "another's reply queue through the default exchange": ("", "replies.{other}", None),
    "a forged user": ("requests", "{bot}", "{other}"),
    "its other user": ("requests", "{bot}", "{twin}"),
}


@pytest.mark.parametrize("what", FORBIDDEN_PUBLISHES)
async def test_an_automation_may_not_publish_to(
    pair: tuple[str, str, AbstractConnection], which: str, what: str
) -> None:
    bot, other, connection = pair
    twin = names.next_user(bot) if which == "own" else bot
    exchange, key, user = (
        text and text.format(bot=bot, other=other, twin=twin) for text in FORBIDDEN_PUBLISHES[what]
    )
    channel = await connection.channel()
    target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    with pytest.raises((ChannelAccessRefused, ChannelPreconditionFailed)):
        await target.publish(Message(b"{}", user_id=user), key or "", mandatory=False)


@pytest.mark.parametrize("name", ["mine.{bot}", "replies.{other}", "replies.{bot}x", "requests.{bot}"])
async def test_an_automation_may_not_declare(pair: tuple[str, str, AbstractConnection], name: str) -> None:
    bot, other, connection = pair
    channel = await connection.channel()
    with pytest.raises(ChannelAccessRefused):
        await channel.declare_queue(name.format(bot=bot, other=other))


@pytest.mark.parametrize(
    "queue", ["requests.{bot}", "requests.{other}", "accounting", "dead", "replies.{other}"]
)
async def test_an_automation_reads_no_queue_but_its_own(
    shared: World, pair: tuple[str, str, AbstractConnection], queue: str
) -> None:
    bot, other, connection = pair
    async with shared.connection.channel() as operator:
        await operator.declare_queue(f"replies.{other}", auto_delete=True)
        channel = await connection.channel()
        found = await channel.get_queue(queue.format(bot=bot, other=other), ensure=False)
        with pytest.raises(ChannelAccessRefused):
            await found.get(timeout=PATIENCE_S)
        await operator.queue_delete(f"replies.{other}")


@pytest.mark.parametrize("exchange", ["events", "requests", "dead"])
async def test_an_automation_may_not_listen_to(
    pair: tuple[str, str, AbstractConnection], exchange: str
) -> None:
    bot, _, connection = pair
    channel = await connection.channel()
    own = await channel.declare_queue(f"replies.{bot}.ear", exclusive=True)
    with pytest.raises(ChannelAccessRefused):
        await own.bind(exchange, "#")


@pytest.mark.parametrize("queue", ["requests.{bot}", "requests.{other}", "accounting", "replies.{other}"])
async def test_an_automation_may_not_empty_or_delete(
    pair: tuple[str, str, AbstractConnection], queue: str
) -> None:
    bot, other, connection = pair
    name = queue.format(bot=bot, other=other)
    with pytest.raises(ChannelAccessRefused):
        await (await (await connection.channel()).get_queue(name, ensure=False)).purge()
    with pytest.raises(ChannelAccessRefused):
        await (await connection.channel()).queue_delete(name)


async def test_an_answer_to_anothers_reply_queue_is_refused_and_never_sent(
    shared: World, pair: tuple[str, str, AbstractConnection]
) -> None:
    bot, other, connection = pair
    await shared.add_key(bot, "Primary")
    async with shared.connection.channel() as operator:
        foreign = await operator.declare_queue(f"replies.{other}", auto_delete=True)
        requests = await (await connection.channel()).get_exchange("requests", ensure=False)
        body = b'{"path": "/moderations", "body": {"input": "hello"}}'
        message = Message(body, message_id=f"to-{other}", correlation_id="c-1", reply_to=foreign.name)
        await requests.publish(message, bot)

        async def refused() -> bool:
            status, stdout, _ = await shared.cli("dead", "list", "--automation", bot, "--json")
            assert status == 0
            return f"to-{other}" in stdout

        await eventually(refused, "the request among the dead letters")
        assert await foreign.get(fail=False) is None
        await operator.queue_delete(foreign.name)
    assert await shared.journal(bot) == []


async def test_an_automation_may_not_write_the_books_by_the_type_of_a_message(
    shared: World, pair: tuple[str, str, AbstractConnection]
) -> None:
    bot, other, connection = pair
    events = await (await connection.channel()).get_exchange("events", ensure=False)
    for key in (f"usage.reported.{bot}", f"heartbeat.{bot}"):
        for victim in (bot, other):
            forged = usage_recorded(victim).model_dump_json().encode()
            await events.publish(Message(forged, type="usage.recorded.v1", message_id="forged"), key)

    async def refused() -> bool:
        _, stdout, _ = await shared.cli("dead", "list", "--automation", bot, "--json")
        return len(json.loads(stdout)) == 4

    await eventually(refused, "four dead letters")
    assert await shared.ledger(bot) == await shared.ledger(other) == []


async def test_an_automation_may_own_durable_reply_queues(pair: tuple[str, str, AbstractConnection]) -> None:
    bot, _, connection = pair
    channel = await connection.channel()
    for name in (f"replies.{bot}", f"replies.{bot}.nightly"):
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        await channel.queue_delete(name)


async def test_a_disabled_automation_is_told_so_and_calls_nobody(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    await shared.provisioner.set_enabled(bot, enabled=False, actor="test")
    async with shared.client(bot) as keyway:

        async def refused() -> bool:
            try:
                await keyway.generate("/moderations", input="hello")
            except AutomationDisabledError:
                told = {"automation_id": bot, "status": "automation_disabled"}
                return len(await shared.mongo.requests.distinct("owner", told)) == 2
            return False

        await eventually(refused, "the automation disabled in every worker")
        before = len(await shared.journal(bot))
        for _ in range(4):
            with pytest.raises(AutomationDisabledError):
                await keyway.generate("/moderations", input="hello")
        assert len(await shared.journal(bot)) == before


async def test_each_request_is_answered_once_while_the_automation_is_switched_off_and_on(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    published, code = 0, ""
    async with Collector(shared, bot) as collector, await connect(shared.url_of(bot)) as connection:
        requests = await (await connection.channel()).get_exchange("requests", ensure=False)

        async def told() -> bool:
            nonlocal published
            message = Message(BODY, message_id=f"r-{published}", reply_to=collector.queue)
            await requests.publish(message, bot)
            published += 1
            last = collector.answers[-1] if collector.answers else None
            return last is not None and code == (last.error.code if last.error else last.status)

        for enabled, code in ((False, "automation_disabled"), (True, "succeeded")):
            await shared.provisioner.set_enabled(bot, enabled=enabled, actor=ACTOR)
            await eventually(told, f"{code} from a worker")
        await collector.have(published)
    answered = [answer.request_id for answer in collector.answers]
    assert sorted(answered) == sorted(f"r-{number}" for number in range(published))
    assert {answer.error.code for answer in collector.answers if answer.error} == {"automation_disabled"}


async def test_a_wrong_password_is_one_clear_error(shared: World) -> None:
    bot = await shared.add_automation()
    with pytest.raises(PublishError, match="can't connect"):
        async with Keyway(shared.url_of(bot, SecretStr("wrong"))):
            pass

"""The broker is the door: what an automation's own RabbitMQ user may not do, RabbitMQ refuses."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from aio_pika import Message, connect
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from contracts import Keyway
from contracts.errors import AutomationDisabledError, PublishError
from tests.harness import World, eventually


def url_of(world: World, bot: str, token: str) -> str:
    where = urlsplit(world.settings.amqp_url.get_secret_value())
    return f"amqp://{bot}:{token}@{where.hostname}:{where.port}{where.path}"


@pytest.fixture
async def pair(shared: World) -> AsyncIterator[tuple[str, str, AbstractConnection]]:
    """An automation, another one, and a plain AMQP connection as the first."""
    bot, other = await shared.add_automation(), await shared.add_automation()
    async with await connect(url_of(shared, bot, shared.tokens[bot].get_secret_value())) as connection:
        yield bot, other, connection


#: What is tried: exchange, routing key, and the user that the message says it is from.
FORBIDDEN_PUBLISHES = {
    "another automation's lane": ("requests", "{other}", None),
    "another's leases": ("requests", "leases.{other}", None),
    "a lane through the default exchange": ("", "requests.{other}", None),
    "its own lane through the default exchange": ("", "requests.{bot}", None),
    "the books": ("events", "usage.recorded.{bot}", None),
    "a key's status": ("events", "key.status_changed.{bot}", None),
    "another's heartbeat": ("events", "heartbeat.{other}", None),
    "dead letters": ("dead", "{bot}", None),
    "a forged user": ("requests", "{bot}", "{other}"),
}


@pytest.mark.parametrize("what", FORBIDDEN_PUBLISHES)
async def test_an_automation_may_not_publish_to(pair: tuple[str, str, AbstractConnection], what: str) -> None:
    bot, other, connection = pair
    exchange, key, user = (text and text.format(bot=bot, other=other) for text in FORBIDDEN_PUBLISHES[what])
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
            await found.get(timeout=5)
        await operator.queue_delete(f"replies.{other}")


async def test_an_automation_may_own_durable_reply_queues(pair: tuple[str, str, AbstractConnection]) -> None:
    bot, _, connection = pair
    channel = await connection.channel()
    for name in (f"replies.{bot}", f"replies.{bot}.nightly"):
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        await channel.queue_delete(name)


async def test_a_rotated_token_replaces_the_old_one(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    old = shared.tokens[bot].get_secret_value()
    async with Keyway(url_of(shared, bot, old)) as running:
        status, stdout, _ = await shared.cli("automations", "rotate-token", bot)
        assert status == 0
        assert (await running.generate("/moderations", input="hello")).status == "succeeded"
    async with Keyway(url_of(shared, bot, stdout.strip())) as renewed:
        assert (await renewed.generate("/moderations", input="hello")).status == "succeeded"
    with pytest.raises(PublishError, match="can't connect"):
        async with Keyway(url_of(shared, bot, old)):
            pass


async def test_a_disabled_automation_is_told_so_and_calls_nobody(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    await shared.provisioner.set_enabled(bot, enabled=False, actor="test")
    async with shared.client(bot) as keyway:

        async def refused() -> bool:
            try:
                await keyway.generate("/moderations", input="hello")
            except AutomationDisabledError:
                return True
            return False

        await eventually(refused, "the automation disabled in every worker")
        before = len(await shared.journal(bot))
        for _ in range(4):
            with pytest.raises(AutomationDisabledError):
                await keyway.generate("/moderations", input="hello")
        assert len(await shared.journal(bot)) == before


async def test_a_wrong_password_is_one_clear_error(shared: World) -> None:
    bot = await shared.add_automation()
    with pytest.raises(PublishError, match="can't connect"):
        async with Keyway(url_of(shared, bot, "wrong")):
            pass

"""What RabbitMQ carries past its own checks, Keyway refuses: nobody spends, borrows or books as another."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from aio_pika import ExchangeType, Message, connect
from aio_pika.abc import AbstractChannel, AbstractExchange
from aiormq.exceptions import ChannelAccessRefused

from contracts import names
from tests.builders import usage_recorded
from tests.collector import BODY
from tests.harness import World, eventually
from tests.lessee import add_bot

#: Publishes a message as `thief` so that it comes out of `exchange` with the routing key `key`.
Way: TypeAlias = Callable[[AbstractChannel, str, str, str, Message], Awaitable[object]]
OWN_KEYS = {names.REQUESTS_EXCHANGE: "{}", names.EVENTS_EXCHANGE: "heartbeat.{}"}


def by_header(name: str) -> Way:
    async def publish(
        channel: AbstractChannel, thief: str, exchange: str, key: str, message: Message
    ) -> None:
        message.headers = {name: [key]}
        to = await channel.get_exchange(exchange, ensure=False)
        await to.publish(message, OWN_KEYS[exchange].format(thief))

    return publish


async def own_exchange(channel: AbstractChannel, thief: str, **arguments: Any) -> AbstractExchange:
    name = f"replies.{thief}.{secrets.token_hex(4)}"
    return await channel.declare_exchange(name, ExchangeType.TOPIC, arguments=arguments)


async def by_alternate_exchange(
    channel: AbstractChannel, thief: str, exchange: str, key: str, message: Message
) -> None:
    own = await own_exchange(channel, thief, **{"alternate-exchange": exchange})
    await own.publish(message, key)


async def by_binding(channel: AbstractChannel, thief: str, exchange: str, key: str, message: Message) -> None:
    own = await own_exchange(channel, thief)
    await (await channel.get_exchange(exchange, ensure=False)).bind(own, "#")
    await own.publish(message, key)


async def by_dead_lettering(
    channel: AbstractChannel, thief: str, exchange: str, key: str, message: Message
) -> None:
    own = await own_exchange(channel, thief)
    queue = await channel.declare_queue(
        f"replies.{thief}.{secrets.token_hex(4)}",
        arguments={
            "x-dead-letter-exchange": exchange,
            "x-dead-letter-routing-key": key,
            "x-message-ttl": 0,
        },
    )
    await queue.bind(own, "#")
    await own.publish(message, "any")


ways = pytest.mark.parametrize(
    "way",
    [by_header("CC"), by_header("BCC"), by_alternate_exchange, by_binding, by_dead_lettering],
    ids=["CC", "BCC", "alternate exchange", "binding", "dead-lettering"],
)


@asynccontextmanager
async def signed_in(world: World, bot: str, key: str) -> AsyncIterator[AbstractChannel]:
    """A channel of an automation's, on which RabbitMQ may refuse it to publish with a routing key.

    RabbitMQ 4 refuses what `CC` and `BCC` name, too; 3.10 lets it through.
    """
    async with await connect(world.url_of(bot)) as connection:
        try:
            yield await connection.channel(on_return_raises=True)
        except ChannelAccessRefused as refusal:
            if f"write access to topic '{key}'" not in str(refusal):
                raise


async def is_refused_for(world: World, mark: str, *parts: str) -> None:
    """Wait for a dead letter with this id whose reason has one of these parts; each copy is refused."""
    channel = await world.connection.channel()
    queue = await channel.get_queue(names.DEAD_QUEUE)
    reasons: list[str] = []

    async def there() -> bool:
        while (message := await queue.get(fail=False)) is not None:
            if message.message_id == mark:
                reasons.append(str(message.headers[names.REASON_HEADER]))
                await message.ack()
        return any(part in reason for reason in reasons for part in parts)

    try:
        await eventually(there, f"{mark} among the dead letters")
    except AssertionError as late:
        raise AssertionError(f"{late}; its reasons: {reasons}") from None
    await channel.close()


#: How a message came that no automation could have sent where it lies.
HOW = ("it came ", "dead-lettered by a queue")


@ways
async def test_nobody_spends_anothers_keys(shared: World, way: Way) -> None:
    thief, other = await shared.add_automation(), await shared.add_automation()
    await shared.add_key(other, "Primary")
    mark = secrets.token_hex(8)
    async with signed_in(shared, thief, other) as channel:
        await way(channel, thief, names.REQUESTS_EXCHANGE, other, Message(BODY, message_id=mark))
        await is_refused_for(shared, mark, *HOW)
    assert await shared.journal(other) == []


@ways
async def test_nobody_borrows_anothers_keys(leasing: World, way: Way) -> None:
    thief, other = await leasing.add_automation(), await add_bot(leasing)
    await leasing.add_key(other, "Primary")
    mark, key = secrets.token_hex(8), names.lease_queue(other)
    async with signed_in(leasing, thief, key) as channel:
        message = Message(
            b"{}", type=names.KEY_LEASE_REQUEST, message_id=mark, reply_to="amq.rabbitmq.reply-to.a.b"
        )
        await way(channel, thief, names.REQUESTS_EXCHANGE, key, message)
        await is_refused_for(leasing, mark, *HOW)
    assert await leasing.mongo.leases.count_documents({"automation_id": other}) == 0


@ways
async def test_nobody_writes_into_anothers_books(shared: World, way: Way) -> None:
    thief, other = await shared.add_automation(), await shared.add_automation()
    event = usage_recorded(automation_id=other).model_dump_json().encode()
    mark, key = secrets.token_hex(8), names.event_routing_key(names.USAGE_RECORDED, other)
    async with signed_in(shared, thief, key) as channel:
        message = Message(event, type=names.USAGE_RECORDED, message_id=mark)
        await way(channel, thief, names.EVENTS_EXCHANGE, key, message)
        # A copy by `CC` keeps the routing key that it was published with, which does not go with the type.
        await is_refused_for(shared, mark, *HOW, "does not go with routing key")
    assert await shared.ledger(other) == []

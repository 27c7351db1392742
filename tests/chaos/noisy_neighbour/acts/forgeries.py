"""Requests and events that would pass for somebody else's, by the ways around a routing key.

RabbitMQ checks the routing key of a publish. It does not check a key by which a message reaches an exchange
otherwise: `CC` and `BCC` headers (which RabbitMQ 4 does check), an alternate exchange, a binding between
exchanges, a dead letter.
"""

import asyncio
from typing import Any

from pamqp import commands

from contracts import names
from tests.builders import usage_recorded
from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.amqp_bytes import ACCESS_REFUSED, RawConnection, message, refusal_of
from tests.chaos.noisy_neighbour.neighbour import GOOD, STREAMED, Neighbour

FORGERIES = Kind("forgeries")


def forged(neighbour: Neighbour) -> list[tuple[str, str, bytes, dict[str, Any]]]:
    """Exchange, key, body and properties of what only the ordinary automation, or a service, may publish."""
    other = neighbour.ordinary.bot
    books = (
        usage_recorded(automation_id=other, request_id="forged", event_id="forged:1")
        .model_dump_json()
        .encode()
    )
    request, lease = {"message_id": f"forged-{neighbour.name}"}, {"type": names.KEY_LEASE_REQUEST}
    return [
        (names.REQUESTS_EXCHANGE, other, GOOD, request),
        (names.REQUESTS_EXCHANGE, f"leases.{other}", b"{}", {**lease, "reply_to": neighbour.reply_queue}),
        (names.EVENTS_EXCHANGE, f"usage.recorded.{other}", books, {"type": names.USAGE_RECORDED}),
        (names.EVENTS_EXCHANGE, f"heartbeat.{other}", b"{}", {"type": names.HEARTBEAT}),
        (names.EVENTS_EXCHANGE, f"config.changed.{other}", b"{}", {"type": names.CONFIG_CHANGED}),
    ]


async def exchange_of_its_own(neighbour: Neighbour, name: str, **declared: Any) -> tuple[RawConnection, str]:
    """A topic exchange, which the permission to declare `replies.<it>.<name>` allows, too."""
    connection = await neighbour.open()
    exchange = f"replies.{neighbour.name}.{name}"
    declare = commands.Exchange.Declare(exchange=exchange, exchange_type="topic", **declared)
    await connection.ask(declare, commands.Exchange.DeclareOk)
    return connection, exchange


@FORGERIES.act("CC and BCC headers with the keys of others")
async def carbon_copies(neighbour: Neighbour) -> None:
    for exchange, key, body, properties in forged(neighbour):
        own = neighbour.name if exchange == names.REQUESTS_EXCHANGE else f"heartbeat.{neighbour.name}"
        for header in ("CC", "BCC"):
            copied = {**properties, "headers": {header: [key]}}
            publishing = neighbour.publish(exchange, own, (body, copied))
            # RabbitMQ 3.10 takes it, and 4 refuses access.
            assert await refusal_of(publishing) in {None, ACCESS_REFUSED}, (exchange, header)


@FORGERIES.act("an exchange of its own whose alternate is one of ours")
async def alternate_exchange(neighbour: Neighbour) -> None:
    for exchange, key, body, properties in forged(neighbour):
        connection, own = await exchange_of_its_own(
            neighbour, f"to-{exchange}", arguments={"alternate-exchange": exchange}
        )
        await connection.publish_all([message(own, key, body, properties)])


@FORGERIES.act("an exchange of its own that is bound to one of ours")
async def bound_exchange(neighbour: Neighbour) -> None:
    for exchange, key, body, properties in forged(neighbour):
        connection, own = await exchange_of_its_own(neighbour, f"bound-{exchange}")
        bind = commands.Exchange.Bind(destination=exchange, source=own, routing_key="#")
        await connection.ask(bind, commands.Exchange.BindOk)
        await connection.publish_all([message(own, key, body, properties)])


@FORGERIES.act("a queue of its own whose dead letters get the key of another")
async def dead_letters(neighbour: Neighbour) -> None:
    for number, (exchange, key, body, properties) in enumerate(forged(neighbour)):
        connection, own = await exchange_of_its_own(neighbour, "into-a-queue")
        queue = f"replies.{neighbour.name}.dying-{number}"
        arguments: dict[str, Any] = {
            "x-dead-letter-exchange": exchange,
            "x-dead-letter-routing-key": key,
            "x-message-ttl": 0,
        }
        declare = commands.Queue.Declare(queue=queue, arguments=arguments)
        await connection.ask(declare, commands.Queue.DeclareOk)
        bind = commands.Queue.Bind(queue=queue, exchange=own, routing_key=str(number))
        await connection.ask(bind, commands.Queue.BindOk)
        await connection.publish_all([message(own, str(number), body, properties)])


@FORGERIES.act("a loop: answers whose dead letters are requests again")
async def loop(neighbour: Neighbour) -> None:
    for exchange, key in (
        (names.REQUESTS_EXCHANGE, neighbour.name),
        (names.EVENTS_EXCHANGE, f"heartbeat.{neighbour.name}"),
    ):
        arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": key, "x-max-length": 0}
        await neighbour.declare(f"loop-{exchange}", durable=True, arguments=arguments)
        reply_to = f"replies.{neighbour.name}.loop-{exchange}"
        await neighbour.ask_each(
            *((body, {"reply_to": reply_to}) for body in (GOOD, STREAMED, b"{}") for _ in range(10))
        )


@FORGERIES.act("the ordinary automation's request ids, at the same time")
async def anothers_ids(neighbour: Neighbour) -> None:
    for _ in range(5):
        ids = neighbour.ordinary.next_ids(10)
        nowhere = f"replies.{neighbour.name}.nowhere"
        await neighbour.ask_each(
            *(
                (body, {"message_id": one, "correlation_id": one, "reply_to": nowhere})
                for one in ids
                for body in (GOOD, STREAMED)
            )
        )
        await asyncio.sleep(0)


@FORGERIES.act("one request id with another body each time")
async def another_body(neighbour: Neighbour) -> None:
    await neighbour.declare(durable=True)
    properties = {"message_id": "the-same", "reply_to": neighbour.reply_queue}
    await neighbour.ask_each(
        *(
            (body, properties)
            for _ in range(20)
            for body in (GOOD, STREAMED, GOOD.replace(b"hello", b"other"), b"{}")
        )
    )

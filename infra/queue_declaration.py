"""Declares queues, each on a channel of its own, so that a refusal closes nothing that others use."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog
from aio_pika import ExchangeType
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.common import FieldValue

from contracts.connection import BROKER_TIMEOUT_S, ChannelLostError, close, on_channel

log = structlog.get_logger()

#: RabbitMQ's words for an argument that a queue was declared with otherwise.
INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' .* but current is "
    r"(?:none|the value '(?P<value>.*)' of type '(?P<type>\w+)'|'(?P<like_ours>.*)')"
)
QUEUE_TYPE = "x-queue-type"
INTEGER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class DeclaredQueue:
    """A queue as it should be.

    Attributes:
        name: of the queue.
        arguments: that it is made with.
        bindings: pairs of a topic exchange, which is made if it is not there, and a routing key.
    """

    name: str
    arguments: Mapping[str, FieldValue]
    bindings: tuple[tuple[str, str], ...] = ()


async def open_channel(connection: AbstractConnection) -> AbstractChannel:
    """Open a channel without confirms, once the connection is there.

    Unlike aio-pika's own, it does not come back by itself.

    Raises:
        ChannelLostError: the broker refuses, or the connection was just lost.
    """
    await connection.ready()
    transport = connection.transport
    if transport is None:
        raise ChannelLostError("the connection was just lost")
    return await on_channel(transport.connection.channel(publisher_confirms=False, timeout=BROKER_TIMEOUT_S))


@asynccontextmanager
async def brief_channel(connection: AbstractConnection) -> AsyncIterator[AbstractChannel]:
    """A channel that is closed when the block ends.

    Raises:
        ChannelLostError: as of `open_channel`.
    """
    channel = await open_channel(connection)
    try:
        yield channel
    finally:
        await close(channel)


async def is_there(connection: AbstractConnection, queue: str) -> bool:
    """Whether there is a queue of this name.

    Raises:
        ChannelLostError: the broker is away, or does not say.
    """
    try:
        async with brief_channel(connection) as channel:
            await on_channel(channel.queue_declare(queue, passive=True, timeout=BROKER_TIMEOUT_S))
    except ChannelLostError as error:
        if isinstance(error.__cause__, ChannelNotFoundEntity):
            return False
        raise
    return True


async def declare_exchange(connection: AbstractConnection, exchange: str) -> None:
    """Make a topic exchange if it is not there.

    Raises:
        ChannelLostError: there is one of another type, the user may not, or the broker is away.
    """
    async with brief_channel(connection) as channel:
        await on_channel(_declare_exchange(channel, exchange))


async def declare_queue(connection: AbstractConnection, queue: DeclaredQueue) -> None:
    """Make a queue, its exchanges and its bindings, as far as they are not there.

    A quorum queue that is there with other arguments is taken as it is: settings such as its length may have
    changed since it was made.

    Raises:
        ChannelLostError: there is a queue of another type with this name, the user may not, or the broker is
            away; the cause says which.
    """
    wanted = queue
    while True:
        try:
            async with brief_channel(connection) as channel:
                await on_channel(_declare(channel, wanted))
        except ChannelLostError as error:
            adapted = as_it_is(wanted, str(error.__cause__))
            if adapted is None:
                raise
            wanted = adapted
        else:
            if wanted is not queue:
                log.info("queue_differs", queue=queue.name, arguments=wanted.arguments)
            return


def as_it_is(queue: DeclaredQueue, reason: str) -> DeclaredQueue | None:
    """A declaration that fits the queue that is there, as far as RabbitMQ's reason for a refusal says.

    Returns:
        The declaration with one argument changed; None where the difference is more than a setting.
    """
    found = INEQUIVALENT.search(reason)
    if found is None or found["name"] == QUEUE_TYPE or not found["name"].startswith("x-"):
        return None
    arguments = {name: value for name, value in queue.arguments.items() if name != found["name"]}
    if found["value"] is not None:
        arguments[found["name"]] = _value(found["value"], is_bool=found["type"] == "bool")
    elif found["like_ours"] is not None:
        ours = queue.arguments.get(found["name"])
        arguments[found["name"]] = _value(found["like_ours"], is_bool=isinstance(ours, bool))
    return None if arguments == queue.arguments else replace(queue, arguments=arguments)


def _value(text: str, *, is_bool: bool) -> FieldValue:
    if is_bool:
        return text == "true"
    return int(text) if INTEGER.fullmatch(text) else text


async def _declare(channel: AbstractChannel, queue: DeclaredQueue) -> None:
    for exchange in sorted({exchange for exchange, _ in queue.bindings}):
        await _declare_exchange(channel, exchange)
    await channel.queue_declare(
        queue.name, durable=True, arguments=dict(queue.arguments), timeout=BROKER_TIMEOUT_S
    )
    for exchange, routing_key in queue.bindings:
        await channel.queue_bind(queue.name, exchange, routing_key, timeout=BROKER_TIMEOUT_S)


async def _declare_exchange(channel: AbstractChannel, exchange: str) -> None:
    await channel.exchange_declare(
        exchange, exchange_type=ExchangeType.TOPIC.value, durable=True, timeout=BROKER_TIMEOUT_S
    )

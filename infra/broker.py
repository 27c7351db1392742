"""RabbitMQ: the connection and the topology of wire.md, declared idempotently."""

from typing import TYPE_CHECKING

import structlog
from aio_pika import ExchangeType, connect_robust
from aiormq.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelNotFoundEntity,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)
from faststream.rabbit import RabbitBroker, RabbitMessage
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter
from yarl import URL

from contracts import names
from contracts.connection import why_untrusted
from infra.errors import BrokerError
from infra.lenient_frames import be_lenient

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractRobustConnection

    from infra.metrics import Exposition
    from infra.settings import Settings

log = structlog.get_logger()

#: How long an attempt to connect may take, in seconds.
CONNECT_TIMEOUT_S = 10.0
#: Seconds between attempts to reconnect.
RECONNECT_INTERVAL_S = 1.0
#: Seconds between heartbeats; a peer that is silent for three of them is gone.
HEARTBEAT_S = 10
#: Neither an event, however often accounting is killed, nor a dead letter, however often it is looked at,
#: may be lost to a delivery count.
UNLIMITED_DELIVERIES = 1_000_000_000

QUORUM = {"x-queue-type": "quorum"}
#: What is dead-lettered is confirmed by the `dead` queue before it leaves its own.
DEAD_LETTERED_SAFELY = {
    "x-dead-letter-exchange": names.DEAD_EXCHANGE,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


async def connect(
    settings: "Settings", service: str, *, metrics: "Exposition | None" = None
) -> "tuple[RabbitBroker, AbstractRobustConnection]":
    """Connect to RabbitMQ, waiting for it with a log line while it is not there.

    Args:
        settings: where it is.
        service: how the connection is named on the management page.
        metrics: where what the broker's subscribers consume is counted; None: nowhere.

    Returns:
        FastStream's broker, connected, and its connection, for what goes without FastStream.

    Raises:
        BrokerError: the user, password or vhost is refused, or RabbitMQ's certificate is not trusted.
    """
    be_lenient()
    broker = RabbitBroker(
        _named(settings, service),
        timeout=CONNECT_TIMEOUT_S,
        reconnect_interval=RECONNECT_INTERVAL_S,
        graceful_timeout=settings.grace_s,
        specification_url="amqp://rabbitmq",
        apply_types=False,
        decoder=_undecoded,
        logger=None,
    )
    if metrics is not None:
        from infra.consumed_metrics import consumed_metrics  # noqa: PLC0415  # it takes a third of a second

        broker.add_middleware(consumed_metrics(metrics))
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_exponential_jitter(multiplier=0.5, max=10),
            before_sleep=_log_waiting,
            reraise=True,
        ):
            with attempt:
                connection = await broker.connect()
    except (AuthenticationError, ProbableAuthenticationError):
        raise BrokerError("KEYWAY_AMQP_URL: RabbitMQ refuses the user or password") from None
    except AMQPError as error:
        if reason := why_untrusted(error):
            raise BrokerError(f"KEYWAY_AMQP_URL: RabbitMQ's certificate is not trusted: {reason}") from None
        raise BrokerError(
            f"KEYWAY_AMQP_URL: RabbitMQ refuses the connection: {type(error).__name__}"
        ) from None
    return broker, connection


async def connect_apart(settings: "Settings", service: str) -> "AbstractRobustConnection":
    """A second connection, for what may cost the connection that it is sent on; RabbitMQ is there.

    Raises:
        AMQPError: RabbitMQ refuses, or is away.
    """
    be_lenient()
    url = _named(settings, service)
    return await connect_robust(url, timeout=CONNECT_TIMEOUT_S, reconnect_interval=RECONNECT_INTERVAL_S)


def _named(settings: "Settings", service: str) -> URL:
    url = URL(settings.amqp_url.get_secret_value())
    name = f"keyway {service} {settings.worker_id}"
    return url.with_query({"heartbeat": str(HEARTBEAT_S), "name": name, **url.query})


async def _undecoded(message: RabbitMessage) -> RabbitMessage:
    """Handlers take the message itself: they need its properties, and read the body once.

    A coroutine, since FastStream calls a function in a thread.
    """
    return message


def _may_pass(error: BaseException) -> bool:
    refused = (AuthenticationError, ProbableAuthenticationError, ConnectionNotAllowed)
    is_away = isinstance(error, AMQPConnectionError | OSError | TimeoutError)
    return is_away and not isinstance(error, refused) and why_untrusted(error) is None


def _log_waiting(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait_s = state.next_action.sleep if state.next_action else 0
    log.warning("broker_unreachable", error=type(error).__name__, retry_in_s=round(wait_s, 1))


async def declare_topology(channel: "AbstractChannel") -> None:
    """Declare what is there once for all automations; harmless to repeat.

    Raises:
        AMQPError: it is there with other arguments, or the user may not.
    """
    await channel.declare_exchange(names.REQUESTS_EXCHANGE, ExchangeType.TOPIC, durable=True)
    events = await channel.declare_exchange(names.EVENTS_EXCHANGE, ExchangeType.TOPIC, durable=True)
    dead = await channel.declare_exchange(names.DEAD_EXCHANGE, ExchangeType.TOPIC, durable=True)
    for name in (names.DEAD_QUEUE, names.UNANSWERED_QUEUE):
        queue = await channel.declare_queue(
            name, durable=True, arguments={**QUORUM, "x-delivery-limit": UNLIMITED_DELIVERIES}
        )
        await queue.bind(dead, "#")
    accounting = await channel.declare_queue(
        names.ACCOUNTING_QUEUE,
        durable=True,
        arguments={
            **QUORUM,
            **DEAD_LETTERED_SAFELY,
            "x-single-active-consumer": True,
            "x-delivery-limit": UNLIMITED_DELIVERIES,
        },
    )
    for key in names.ACCOUNTING_BINDINGS:
        await accounting.bind(events, key)


async def declare_lane(
    connection: "AbstractRobustConnection", automation_id: str, settings: "Settings"
) -> None:
    """Declare an automation's request queue, or leave it as it is when it is there.

    Raises:
        AMQPError: the user may not.
    """
    await _declare_asked(connection, names.lane_queue(automation_id), automation_id, settings)


async def declare_lease_queue(
    connection: "AbstractRobustConnection", automation_id: str, settings: "Settings"
) -> None:
    """Declare an automation's queue of direct key requests, or leave it as it is when it is there.

    Raises:
        AMQPError: the user may not.
    """
    name = names.lease_queue(automation_id)
    await _declare_asked(connection, name, name, settings)


async def _declare_asked(
    connection: "AbstractRobustConnection", name: str, routing_key: str, settings: "Settings"
) -> None:
    try:
        async with connection.channel() as channel:
            await channel.declare_queue(name, passive=True, robust=False)
            return
    except ChannelNotFoundEntity:
        pass
    async with connection.channel() as channel:
        queue = await channel.declare_queue(
            name,
            durable=True,
            robust=False,
            arguments={
                **QUORUM,
                **DEAD_LETTERED_SAFELY,
                "x-dead-letter-routing-key": routing_key,
                "x-delivery-limit": settings.delivery_limit,
                "x-max-length": settings.lane_max_length,
            },
        )
        await queue.bind(names.REQUESTS_EXCHANGE, routing_key, robust=False)

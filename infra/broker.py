"""RabbitMQ: the connection and the topology of wire.md, declared idempotently."""

from functools import partial
from typing import TYPE_CHECKING

import structlog
from aio_pika import connect_robust
from aiormq.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)
from faststream.rabbit import RabbitBroker
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter
from yarl import URL

from contracts import names
from contracts.connection import ChannelLostError, why_untrusted
from contracts.queue_consumer import said_of
from infra.errors import BrokerError
from infra.frame_buffers import unbound_frame_buffers
from infra.lenient_frames import be_lenient
from infra.queue_declaration import DeclaredQueue, declare_exchange, declare_queue, is_there

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aio_pika.abc import AbstractConnection, AbstractRobustConnection
    from pamqp.common import FieldValue

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

QUORUM: "dict[str, FieldValue]" = {"x-queue-type": "quorum"}
#: What is dead-lettered is confirmed by the `dead` queue before it leaves its own.
DEAD_LETTERED_SAFELY = {
    "x-dead-letter-exchange": names.DEAD_EXCHANGE,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
#: A letter outlives however many looks at it.
KEPT: "dict[str, FieldValue]" = {**QUORUM, "x-delivery-limit": UNLIMITED_DELIVERIES}
DEAD = DeclaredQueue(names.DEAD_QUEUE, KEPT, ((names.DEAD_EXCHANGE, "#"),))
UNANSWERED = DeclaredQueue(names.UNANSWERED_QUEUE, KEPT, ((names.DEAD_EXCHANGE, "#"),))
ACCOUNTING = DeclaredQueue(
    names.ACCOUNTING_QUEUE,
    {
        **QUORUM,
        **DEAD_LETTERED_SAFELY,
        "x-single-active-consumer": True,
        "x-delivery-limit": UNLIMITED_DELIVERIES,
    },
    tuple((names.EVENTS_EXCHANGE, key) for key in names.ACCOUNTING_BINDINGS),
)
#: What is there once for all automations.
TOPOLOGY = (DEAD, UNANSWERED, ACCOUNTING)


async def connect(settings: "Settings", service: str) -> "tuple[RabbitBroker, AbstractRobustConnection]":
    """Connect to RabbitMQ, waiting for it with a log line while it is not there.

    Args:
        settings: where it is.
        service: how the connection is named on the management page.

    Returns:
        FastStream's broker, connected, without subscribers, and its connection: what is consumed goes by
        `infra.consuming`, which outlives a rebuilt broker.

    Raises:
        BrokerError: the user, password or vhost is refused, or RabbitMQ's certificate is not trusted.
    """
    be_lenient()
    unbound_frame_buffers()
    broker = RabbitBroker(
        _named(settings, service),
        timeout=CONNECT_TIMEOUT_S,
        reconnect_interval=RECONNECT_INTERVAL_S,
        graceful_timeout=settings.grace_s,
        specification_url="amqp://rabbitmq",
        apply_types=False,
        logger=None,
    )
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
    unbound_frame_buffers()
    url = _named(settings, service)
    return await connect_robust(url, timeout=CONNECT_TIMEOUT_S, reconnect_interval=RECONNECT_INTERVAL_S)


def _named(settings: "Settings", service: str) -> URL:
    url = URL(settings.amqp_url.get_secret_value())
    name = f"keyway {service} {settings.worker_id}"
    return url.with_query({"heartbeat": str(HEARTBEAT_S), "name": name, **url.query})


def _may_pass(error: BaseException) -> bool:
    refused = (AuthenticationError, ProbableAuthenticationError, ConnectionNotAllowed)
    is_away = isinstance(error, AMQPConnectionError | OSError | TimeoutError)
    return is_away and not isinstance(error, refused) and why_untrusted(error) is None


def _log_waiting(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait_s = state.next_action.sleep if state.next_action else 0
    log.warning("broker_unreachable", error=type(error).__name__, retry_in_s=round(wait_s, 1))


async def declare_topology(connection: "AbstractConnection") -> None:
    """Declare what is there once for all automations; harmless to repeat.

    Raises:
        BrokerError: a queue is there as another kind of queue, or the user may not.
    """
    refusals = await try_topology(connection)
    if refusals:
        raise BrokerError("KEYWAY_AMQP_URL: " + "; ".join(f"{name}: {why}" for name, why in refusals.items()))


async def try_topology(connection: "AbstractConnection") -> "Mapping[str, str]":
    """Declare the same, each part by itself.

    Returns:
        Why a part could not be declared, by its name.
    """
    refusals = {}
    # Whoever asks before there is an automation is told so, and not that the exchange is missing.
    parts = {names.REQUESTS_EXCHANGE: partial(declare_exchange, connection, names.REQUESTS_EXCHANGE)}
    parts |= {queue.name: partial(declare_queue, connection, queue) for queue in TOPOLOGY}
    for name, declare in parts.items():
        try:
            await declare()
        except ChannelLostError as error:
            refusals[name] = said_of(error)
    return refusals


async def restore_topology(connection: "AbstractConnection") -> None:
    """Declare what is gone of it: nobody consumes `dead`, so that no broker's cancel tells of its end.

    Raises:
        ChannelLostError: the broker refuses, or is away.
    """
    for queue in TOPOLOGY:
        if not await is_there(connection, queue.name):
            await declare_queue(connection, queue)
            log.warning("queue_restored", queue=queue.name)


def lane(automation_id: str, settings: "Settings") -> DeclaredQueue:
    """The queue of an automation's requests."""
    return _asked(names.lane_queue(automation_id), automation_id, settings)


def lease_queue(automation_id: str, settings: "Settings") -> DeclaredQueue:
    """The queue of an automation's direct key requests."""
    name = names.lease_queue(automation_id)
    return _asked(name, name, settings)


def _asked(name: str, routing_key: str, settings: "Settings") -> DeclaredQueue:
    return DeclaredQueue(
        name,
        {
            **QUORUM,
            **DEAD_LETTERED_SAFELY,
            "x-dead-letter-routing-key": routing_key,
            "x-delivery-limit": settings.delivery_limit,
            "x-max-length": settings.lane_max_length,
        },
        ((names.REQUESTS_EXCHANGE, routing_key),),
    )

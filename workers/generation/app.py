"""A generation worker: wires its parts, runs until it is told to stop, and finishes what is in flight."""

import asyncio
from contextlib import AsyncExitStack

import structlog
from faststream import AckPolicy, FastStream
from faststream.rabbit import (
    ExchangeType,
    QueueType,
    RabbitBroker,
    RabbitExchange,
    RabbitMessage,
    RabbitQueue,
)

from contracts import names
from infra.broker import connect as connect_broker
from infra.broker import declare_topology
from infra.mongo import connect as connect_mongo
from infra.mongo import wait_for_mongo
from infra.prices import cost
from infra.settings import Settings
from infra.telemetry import configure_logging
from infra.vault import Vault
from workers.generation.attempts import Attempts
from workers.generation.journal import Journal
from workers.generation.lanes import Lanes
from workers.generation.publishing import Publisher
from workers.generation.request import RequestHandler
from workers.generation.upstream import Upstream
from workers.keys.pool import KeyPool

log = structlog.get_logger()

#: A reload queue whose worker is gone is deleted after so long, in milliseconds.
RELOAD_QUEUE_EXPIRES_MS = 60_000
#: What stopping may take beyond the calls in flight, in seconds.
CLOSE_TIMEOUT_S = 10.0


async def run(settings: Settings) -> None:
    """Run a generation worker until SIGINT or SIGTERM.

    Raises:
        PlatformError: a setting is wrong, or RabbitMQ or MongoDB refuses.
    """
    configure_logging(settings, "generation")
    vault = Vault(settings.master_keys)
    async with AsyncExitStack() as stack:
        mongo = await stack.enter_async_context(
            connect_mongo(settings.mongo_url.get_secret_value(), settings.mongo_database)
        )
        await wait_for_mongo(mongo)
        await mongo.ensure_schema()
        broker, connection = await connect_broker(settings, "generation")
        async with connection.channel() as channel:
            await declare_topology(channel)
        cost("gpt-4o-mini", 0, 0, 0)  # the price list takes half a second to load: not on the first request
        upstream = Upstream(settings.max_in_flight)
        stack.push_async_callback(upstream.close)
        pool = KeyPool(mongo, settings.worker_id)
        journal = Journal(mongo, vault, settings.worker_id, result_ttl_s=settings.result_ttl_s)
        attempts = Attempts(pool, upstream, vault, settings.max_in_flight)
        publisher = await Publisher.open(connection)
        handler = RequestHandler(settings, journal, attempts, publisher)
        lanes = Lanes(settings, mongo, connection, handler.handle)
        _subscribe_to_changes(broker, settings, pool, lanes)
        app = FastStream(broker, logger=None)

        @app.after_startup
        async def open_lanes() -> None:
            await pool.start()
            await journal.start()
            log.info("worker_ready", lanes=await lanes.start())

        @app.on_shutdown
        async def finish() -> None:
            await lanes.stop(settings.grace_s)
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await pool.close()
                await journal.close()
            log.info("worker_stopped")

        await app.run()


def _subscribe_to_changes(broker: RabbitBroker, settings: Settings, pool: KeyPool, lanes: Lanes) -> None:
    """Hear of changed keys, limits and automations, and look at them anew."""
    events = RabbitExchange(names.EVENTS_EXCHANGE, type=ExchangeType.TOPIC, durable=True, declare=False)

    async def reload(message: RabbitMessage) -> None:
        automation_id = (message.raw_message.routing_key or "").rpartition(".")[2]
        pool.invalidate(automation_id)
        lanes.reload(automation_id)

    for number, binding in enumerate(names.RELOAD_BINDINGS):
        queue = RabbitQueue(
            f"reload.{settings.worker_id}.{number}",
            queue_type=QueueType.CLASSIC,
            durable=True,
            routing_key=binding,
            arguments={"x-expires": RELOAD_QUEUE_EXPIRES_MS},
        )
        broker.subscriber(queue, events, ack_policy=AckPolicy.ACK_FIRST, no_reply=True)(reload)

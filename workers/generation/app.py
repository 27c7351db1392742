"""A generation worker: wires its parts, runs until it is told to stop, and finishes what is in flight."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import structlog
from faststream import FastStream

from infra.background_tasks import BackgroundTasks
from infra.broker import connect as connect_broker
from infra.broker import connect_apart
from infra.changes import hear_changes
from infra.garbage_collection import collect_seldom
from infra.metrics import exposed_metrics
from infra.mongo import PyMongoError, wait_for_mongo
from infra.mongo import connect as connect_mongo
from infra.prices import REFRESH_S, cost, load_prices
from infra.readiness import consuming_on
from infra.settings import Settings
from infra.telemetry import configure_logging, configure_tracing
from infra.vault import Vault
from workers.generation.journal import Journal
from workers.generation.lanes import Lanes
from workers.generation.metrics import RequestMetrics
from workers.generation.parts import parts
from workers.generation.unanswered import Unanswered
from workers.generation.upstream import Upstream
from workers.keys.pool import KeyPool
from workers.keys.probes import Prober

log = structlog.get_logger()

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
        made = parts(configure_tracing(settings, "generation", stack))
        mongo = await stack.enter_async_context(
            connect_mongo(settings.mongo_url.get_secret_value(), settings.mongo_database)
        )
        exposition = await stack.enter_async_context(exposed_metrics(settings, "generation"))
        metrics = None if exposition is None else RequestMetrics(exposition)
        await wait_for_mongo(mongo)
        await mongo.ensure_schema()
        await load_prices(mongo)
        broker, connection = await connect_broker(settings, "generation")
        consuming, counted = consuming_on(connection, exposition)
        cost("gpt-4o-mini", 0, 0, 0)  # the price list takes half a second to load: not on the first request
        upstream = Upstream(settings.max_in_flight, proxy_from_environment=settings.proxy_from_environment)
        stack.push_async_callback(upstream.close)
        pool = KeyPool(mongo, settings.worker_id, settings.max_in_flight)
        journal = Journal(mongo, vault, settings.worker_id, result_ttl_s=settings.result_ttl_s, now=pool.now)
        attempts = made.attempts(pool, upstream, vault, metrics)
        apart = await connect_apart(settings, "replies")
        stack.push_async_callback(apart.close)
        replies = await made.replies.open(connection, apart, max_message_bytes=settings.max_message_bytes)
        handler = made.handler(
            settings,
            journal,
            attempts,
            replies,
            publisher=await made.publisher.open(connection, max_message_bytes=settings.max_message_bytes),
            now=pool.now,
            metrics=metrics,
        )
        lanes = Lanes(settings, mongo, consuming, handler.handle, pool)
        unanswered = Unanswered(consuming, handler.handle, counted)
        if metrics is not None:
            metrics.watch(in_hand=lambda: lanes.in_hand, in_flight=lambda: pool.held_calls)
        prober = Prober(mongo, vault, proxy_from_environment=settings.proxy_from_environment)
        app = FastStream(broker, logger=None)
        tasks = BackgroundTasks("generation")

        @app.on_startup
        async def set_clocks() -> None:
            await pool.start()
            tasks.every(REFRESH_S, "prices", partial(load_prices, mongo), passes=(PyMongoError,))

        @app.after_startup
        async def open_lanes() -> None:
            await journal.start()
            await prober.start()
            changes = hear_changes(consuming, settings.worker_id, _reloading(pool, lanes), counted)
            await asyncio.gather(changes, unanswered.start())
            log.info("worker_ready", lanes=await lanes.start())
            collect_seldom()

        @app.on_shutdown
        async def finish() -> None:
            await asyncio.gather(lanes.stop(settings.grace_s), unanswered.stop(settings.grace_s))
            await consuming.close()
            await tasks.close()
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await prober.close()
                await pool.close()
                await journal.close()
            log.info("worker_stopped")

        await app.run()


def _reloading(pool: KeyPool, lanes: Lanes) -> Callable[[str], None]:
    """What looks anew at the keys, limits and settings of an automation that changed."""

    def reload(automation_id: str) -> None:
        pool.invalidate(automation_id)
        lanes.reload(automation_id)

    return reload

"""A leasing worker: wires its parts, and runs until it is told to stop."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import structlog
from faststream import FastStream

from infra.background_tasks import BackgroundTasks
from infra.broker import connect as connect_broker
from infra.broker import connect_apart
from infra.changes import hear_changes
from infra.metrics import exposed_metrics
from infra.mongo import PyMongoError, wait_for_mongo
from infra.mongo import connect as connect_mongo
from infra.prices import REFRESH_S, load_prices
from infra.readiness import consuming_on
from infra.settings import Settings
from infra.telemetry import configure_logging
from infra.vault import Vault
from workers.keys.pool import KeyPool
from workers.leasing.metrics import LeaseMetrics
from workers.leasing.queues import LeaseQueues
from workers.leasing.replies import Replies
from workers.leasing.request import LeaseRequestHandler

log = structlog.get_logger()

#: What stopping may take beyond the requests in hand, in seconds.
CLOSE_TIMEOUT_S = 10.0


async def run(settings: Settings) -> None:
    """Run a leasing worker until SIGINT or SIGTERM.

    Raises:
        PlatformError: a setting is wrong, or RabbitMQ or MongoDB refuses.
    """
    configure_logging(settings, "leasing")
    vault = Vault(settings.master_keys)
    async with AsyncExitStack() as stack:
        mongo = await stack.enter_async_context(
            connect_mongo(settings.mongo_url.get_secret_value(), settings.mongo_database)
        )
        exposition = await stack.enter_async_context(exposed_metrics(settings, "leasing"))
        metrics = None if exposition is None else LeaseMetrics(exposition)
        await wait_for_mongo(mongo)
        await mongo.ensure_schema()
        await load_prices(mongo)
        broker, connection = await connect_broker(settings, "leasing")
        consuming, counted = consuming_on(connection, exposition)
        apart = await connect_apart(settings, "leases")
        stack.push_async_callback(apart.close)
        pool = KeyPool(mongo, settings.worker_id)
        handler = LeaseRequestHandler(mongo, pool, vault, await Replies.open(connection, apart), metrics)
        queues = LeaseQueues(settings, mongo, consuming, handler.handle)

        def reload(automation_id: str) -> None:
            pool.invalidate(automation_id)
            queues.reload()

        app = FastStream(broker, logger=None)
        tasks = BackgroundTasks("leasing")

        @app.on_startup
        async def set_clocks() -> None:
            await pool.start()
            tasks.every(REFRESH_S, "prices", partial(load_prices, mongo), passes=(PyMongoError,))

        @app.after_startup
        async def begin() -> None:
            await hear_changes(consuming, settings.worker_id, reload, counted)
            log.info("leasing_ready", queues=await queues.start())

        @app.on_shutdown
        async def finish() -> None:
            await queues.stop(settings.grace_s)
            await consuming.close()
            await tasks.close()
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await pool.close()
            log.info("leasing_stopped")

        await app.run()

"""The accounting consumer: wires the ledger to its queue, and publishes what follows from the books.

The queue has a single active consumer; a second process stands by and takes over when the first is gone.
"""

import asyncio
from contextlib import AsyncExitStack, suppress

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractExchange, AbstractRobustConnection
from faststream import FastStream

from contracts import names
from infra.alert_targets import alert_targets
from infra.alerts import resolve_over
from infra.broker import connect as connect_broker
from infra.broker import declare_topology
from infra.confirmed_publishing import CONFIRM_TIMEOUT_S
from infra.duty import Duty
from infra.garbage_collection import collect_seldom
from infra.lanes import QueueWatch
from infra.management import management
from infra.metrics import Exposition, exposed_metrics
from infra.mongo import Document, Mongo, PyMongoError, wait_for_mongo
from infra.mongo import connect as connect_mongo
from infra.outbox import publish_outbox
from infra.prices import keep_prices, load_prices
from infra.settings import Settings
from infra.telemetry import configure_logging, configure_tracing
from infra.tracing_settings import TracingSettings
from workers.accounting.booking import Booking
from workers.accounting.delivery import deliver_alerts
from workers.accounting.fleet import FleetReader
from workers.accounting.fleet_metrics import FleetMetrics
from workers.accounting.heartbeats import Heartbeats
from workers.accounting.intake import Intake
from workers.accounting.ledger import Ledger
from workers.accounting.metrics import LedgerMetrics
from workers.accounting.watch import Watch, thresholds_of

log = structlog.get_logger()

#: How often the outbox and keys whose time is over are looked at, in seconds.
HOUSEKEEPING_S = 0.25
#: Seconds until the next look while MongoDB or the broker is away.
RETRY_S = 2.0


async def run(settings: Settings) -> None:
    """Run the accounting consumer until SIGINT or SIGTERM.

    Raises:
        PlatformError: a setting is wrong, or RabbitMQ or MongoDB refuses.
    """
    configure_logging(settings, "accounting")
    targets = alert_targets(settings.alert_urls)
    async with AsyncExitStack() as stack:
        tracing = configure_tracing(settings, "accounting", stack)
        mongo = await stack.enter_async_context(
            connect_mongo(settings.mongo_url.get_secret_value(), settings.mongo_database)
        )
        exposition = await stack.enter_async_context(exposed_metrics(settings, "accounting"))
        metrics = None if exposition is None else LedgerMetrics(exposition)
        await wait_for_mongo(mongo)
        await mongo.ensure_schema()
        await load_prices(mongo)
        broker, connection = await connect_broker(settings, "accounting", metrics=exposition)
        channel = await connection.channel(publisher_confirms=True)
        await declare_topology(channel)
        events = await channel.get_exchange(names.EVENTS_EXCHANGE, ensure=False)
        dead = await channel.get_exchange(names.DEAD_EXCHANGE, ensure=False)
        admin = await stack.enter_async_context(management(settings))
        duty = Duty(mongo, "alerts", settings.worker_id)
        every_s = settings.alert_every_s
        queues = QueueWatch(admin)
        watch = Watch(mongo, queues, duty, thresholds_of(settings), every_s=every_s)
        ledger = Ledger(mongo, metrics)
        heartbeats = Heartbeats(mongo)
        booking = Booking(_intake(connection, exposition, tracing), ledger, heartbeats, dead, metrics)
        if exposition is not None:
            FleetMetrics(exposition, FleetReader(mongo, queues))
        app = FastStream(broker, logger=None)
        housekeeping: list[asyncio.Task[None]] = []

        @app.after_startup
        async def begin() -> None:
            housekeeping.append(asyncio.create_task(_keep_house(mongo, ledger, events)))
            housekeeping.append(asyncio.create_task(heartbeats.keep()))
            housekeeping.append(asyncio.create_task(keep_prices(mongo)))
            housekeeping.append(asyncio.create_task(duty.keep()))
            housekeeping.append(asyncio.create_task(watch.keep()))
            housekeeping.append(asyncio.create_task(deliver_alerts(mongo, duty, targets)))
            if exposition is not None:
                housekeeping.append(asyncio.create_task(queues.keep()))
            await booking.start()
            collect_seldom()
            log.info("accounting_ready")

        @app.on_shutdown
        async def end() -> None:
            await booking.stop(settings.grace_s)
            for task in housekeeping:
                task.cancel()
            await asyncio.gather(*housekeeping, return_exceptions=True)
            with suppress(PyMongoError):  # it lapses by itself
                await duty.give_up()
            log.info("accounting_stopped")

        await app.run()


def _intake(
    connection: AbstractRobustConnection, exposition: Exposition | None, tracing: TracingSettings
) -> Intake:
    """What takes the queue's deliveries, with what is counted and traced of them."""
    metrics = None
    if exposition is not None:
        from infra.consumed_metrics import BatchMetrics  # noqa: PLC0415  # it takes a third of a second

        metrics = BatchMetrics(exposition)
    if not tracing.is_on:
        return Intake(connection, metrics)
    from workers.accounting.tracing import TracedIntake  # noqa: PLC0415  # it takes a while

    return TracedIntake(connection, metrics)


async def _keep_house(mongo: Mongo, ledger: Ledger, events: AbstractExchange) -> None:
    """End what is over: keys' pauses, unreported leases, alerts; and publish what waits in the outbox."""

    async def publish(event: Document) -> None:
        message = Message(
            event["body"],
            content_type="application/json",
            type=event["type"],
            message_id=event["_id"],
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        await events.publish(message, event["routing_key"], mandatory=False, timeout=CONFIRM_TIMEOUT_S)

    while True:
        try:
            await ledger.renew_exhausted()
            await ledger.charge_unreported()
            await resolve_over(mongo, await mongo.server_time())
            await publish_outbox(mongo, publish)
        except Exception as error:  # noqa: BLE001  # MongoDB or the broker is away: again soon
            log.warning("housekeeping_delayed", error=type(error).__name__, retry_in_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
        await asyncio.sleep(HOUSEKEEPING_S)

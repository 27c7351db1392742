"""The accounting consumer: wires the ledger to its queue, and publishes what follows from the books.

The queue has a single active consumer; a second process stands by and takes over when the first is gone.
"""

from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractExchange
from aiormq.exceptions import AMQPError, ChannelInvalidStateError
from faststream import FastStream

from contracts import names
from infra.alert_targets import alert_targets
from infra.alerts import resolve_over
from infra.background_tasks import BackgroundTasks
from infra.broker import connect as connect_broker
from infra.confirmed_publishing import CONFIRM_TIMEOUT_S
from infra.consuming import Consuming
from infra.dead_letters import DeadLetters
from infra.duty import Duty
from infra.errors import BrokerError
from infra.garbage_collection import collect_seldom
from infra.lanes import NOTE_EVERY_S, QueueWatch
from infra.management import management
from infra.metrics import exposed_metrics
from infra.mongo import Document, Mongo, PyMongoError, wait_for_mongo
from infra.mongo import connect as connect_mongo
from infra.outbox import publish_outbox
from infra.prices import REFRESH_S, load_prices
from infra.readiness import consuming_on
from infra.settings import Settings
from infra.telemetry import configure_logging, configure_tracing
from infra.tracing_settings import TracingSettings
from workers.accounting.booking import Booking
from workers.accounting.delivery import deliver_alerts
from workers.accounting.fleet import FleetReader
from workers.accounting.fleet_metrics import FleetMetrics
from workers.accounting.heartbeats import WRITE_EVERY_S, Heartbeats
from workers.accounting.intake import Intake
from workers.accounting.ledger import Ledger
from workers.accounting.metrics import LedgerMetrics
from workers.accounting.watch import Watch, thresholds_of

if TYPE_CHECKING:
    from infra.consumed_metrics import BatchMetrics

log = structlog.get_logger()

#: How often the outbox is looked at, in seconds: who waits for a key waits for its events.
OUTBOX_S = 0.25
#: How often keys, leases and alerts whose time is over are looked at, in seconds.
HOUSEKEEPING_S = 1.0
#: Errors of a task that may pass: MongoDB or the broker is away.
MAY_PASS = (PyMongoError, AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)


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
        broker, connection = await connect_broker(settings, "accounting")
        consuming, counted = consuming_on(connection, exposition)
        channel = await connection.channel(publisher_confirms=True)
        events = await channel.get_exchange(names.EVENTS_EXCHANGE, ensure=False)
        dead = await DeadLetters.open(connection, max_message_bytes=settings.max_message_bytes)
        admin = await stack.enter_async_context(management(settings))
        duty = Duty(mongo, "alerts", settings.worker_id)
        queues = QueueWatch(admin)
        watch = Watch(mongo, queues, duty, thresholds_of(settings))
        ledger = Ledger(mongo, metrics)
        heartbeats = Heartbeats(mongo)
        booking = Booking(
            _intake(consuming, counted, tracing),
            ledger,
            heartbeats,
            dead,
            metrics,
        )
        if exposition is not None:
            FleetMetrics(exposition, FleetReader(mongo, queues))
        app = FastStream(broker, logger=None)
        tasks = BackgroundTasks("accounting")

        @app.after_startup
        async def begin() -> None:
            _keep_house(tasks, mongo, ledger, events)
            tasks.every(WRITE_EVERY_S, "heartbeats", heartbeats.write, passes=MAY_PASS)
            tasks.every(REFRESH_S, "prices", partial(load_prices, mongo), passes=MAY_PASS)
            tasks.every(duty.claim_every_s, "duty", duty.claim, passes=MAY_PASS)
            tasks.every(settings.alert_every_s, "alerts", watch.look_on_duty, passes=MAY_PASS)
            deliver_alerts(tasks, mongo, duty, targets)
            if exposition is not None:
                tasks.every(NOTE_EVERY_S, "notes of queues", queues.queues, passes=(BrokerError,))
            await booking.start()
            collect_seldom()
            log.info("accounting_ready")

        @app.on_shutdown
        async def end() -> None:
            await booking.stop(settings.grace_s)
            await consuming.close()
            await tasks.close()
            with suppress(PyMongoError):  # it lapses by itself
                await duty.give_up()
            log.info("accounting_stopped")

        await app.run()


def _intake(consuming: Consuming, counted: "BatchMetrics | None", tracing: TracingSettings) -> Intake:
    """What takes the queue's deliveries, with what is counted and traced of them."""
    if not tracing.is_on:
        return Intake(consuming, counted)
    from workers.accounting.tracing import TracedIntake  # noqa: PLC0415  # it takes a while

    return TracedIntake(consuming, counted)


def _keep_house(tasks: BackgroundTasks, mongo: Mongo, ledger: Ledger, events: AbstractExchange) -> None:
    """End what is over and publish what waits in the outbox, each in a task of its own."""

    async def publish(event: Document) -> None:
        message = Message(
            event["body"],
            content_type="application/json",
            type=event["type"],
            message_id=event["_id"],
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        await events.publish(message, event["routing_key"], mandatory=False, timeout=CONFIRM_TIMEOUT_S)

    async def end_alerts() -> None:
        await resolve_over(mongo, await mongo.server_time())

    tasks.every(HOUSEKEEPING_S, "keys that are renewed", ledger.renew_exhausted, passes=MAY_PASS)
    tasks.every(HOUSEKEEPING_S, "leases that nobody reported", ledger.charge_unreported, passes=MAY_PASS)
    tasks.every(HOUSEKEEPING_S, "alerts that are over", end_alerts, passes=MAY_PASS)
    tasks.every(OUTBOX_S, "outbox", partial(publish_outbox, mongo, publish), passes=MAY_PASS)

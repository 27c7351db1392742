"""The accounting consumer: wires the ledger to its queue, and publishes what follows from the books.

The queue has a single active consumer; a second process stands by and takes over when the first is gone.
"""

import asyncio
from contextlib import AsyncExitStack, suppress

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractExchange
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitMessage, RabbitQueue
from pydantic import ValidationError

from contracts import names
from contracts.messages import Heartbeat, UsageRecorded, UsageReported
from infra.alert_targets import alert_targets
from infra.alerts import resolve_over
from infra.broker import connect as connect_broker
from infra.broker import declare_topology
from infra.dead_letters import dead_letter
from infra.duty import Duty
from infra.group_commit import GroupCommit
from infra.lanes import QueueWatch
from infra.management import management
from infra.metrics import exposed_metrics
from infra.mongo import Document, Mongo, PyMongoError, wait_for_mongo
from infra.mongo import connect as connect_mongo
from infra.outbox import publish_outbox
from infra.prices import keep_prices, load_prices
from infra.settings import Settings
from infra.telemetry import configure_logging, configure_tracing
from infra.trace_headers import trace_ids
from workers.accounting.delivery import deliver_alerts
from workers.accounting.fleet import FleetReader
from workers.accounting.fleet_metrics import FleetMetrics
from workers.accounting.heartbeats import Heartbeats
from workers.accounting.leases import Refused, Report
from workers.accounting.ledger import Applied, Entry, Ledger
from workers.accounting.metrics import LedgerMetrics
from workers.accounting.watch import Watch, thresholds_of

log = structlog.get_logger()

#: Events that are delivered and not yet in the ledger.
PREFETCH = 2000
#: Events that are written in one transaction.
MAX_BATCH = 500
#: How long a transaction waits for more events while many come, in seconds: it costs as much as 20 of them.
GATHER_S = 0.1
#: How often the outbox and keys whose time is over are looked at, in seconds.
HOUSEKEEPING_S = 0.25
#: Seconds until the next look while MongoDB or the broker is away.
RETRY_S = 2.0
CONFIRM_TIMEOUT_S = 30.0


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
        if tracing.is_on:
            from workers.accounting.tracing import spans_of_bookings  # noqa: PLC0415  # it takes a while

            broker.add_middleware(spans_of_bookings())
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
        _subscribe(broker, ledger, heartbeats, dead, metrics)
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
            log.info("accounting_ready")

        @app.on_shutdown
        async def end() -> None:
            for task in housekeeping:
                task.cancel()
            await asyncio.gather(*housekeeping, return_exceptions=True)
            with suppress(PyMongoError):  # it lapses by itself
                await duty.give_up()
            log.info("accounting_stopped")

        await app.run()


def _subscribe(
    broker: RabbitBroker,
    ledger: Ledger,
    heartbeats: Heartbeats,
    dead: AbstractExchange,
    metrics: LedgerMetrics | None,
) -> None:
    """Take events as they come, write them in batches, and acknowledge each when it is in the ledger."""
    commit: GroupCommit[Entry, Applied] = GroupCommit(
        ledger.apply, max_batch=MAX_BATCH, enough=MAX_BATCH, gather_s=GATHER_S
    )
    queue = RabbitQueue(names.ACCOUNTING_QUEUE, queue_type=QueueType.QUORUM, durable=True, declare=False)

    async def refuse(message: RabbitMessage, reason: str) -> None:
        await _dead_letter(dead, message, reason)
        if metrics is not None:
            metrics.refused(message.raw_message.type)

    async def book(message: RabbitMessage, entry: UsageRecorded | Report) -> None:
        applied = await commit.submit(entry)
        if isinstance(applied, Refused):
            await refuse(message, applied.reason)
        elif not applied:
            request_id = entry.request_id if isinstance(entry, UsageRecorded) else entry.lease_id
            log.info(
                "event_repeated",
                request_id=request_id,
                automation_id=entry.automation_id,
                **trace_ids(message.headers),
            )

    @broker.subscriber(
        queue, channel=Channel(prefetch_count=PREFETCH), ack_policy=AckPolicy.MANUAL, no_reply=True
    )
    async def account(message: RabbitMessage) -> None:
        raw = message.raw_message
        automation_id = (raw.routing_key or "").rpartition(".")[2]
        try:
            if raw.routing_key != names.event_routing_key(raw.type or "", automation_id):
                # The broker vouches for the routing key, and for nothing else of what an automation sends.
                reason = f"type {raw.type!r} does not go with routing key {raw.routing_key!r}"
                await refuse(message, reason)
            elif raw.type == names.USAGE_RECORDED:
                await book(message, UsageRecorded.model_validate_json(raw.body))
            elif raw.type == names.USAGE_REPORTED:
                await book(message, Report(automation_id, UsageReported.model_validate_json(raw.body)))
            elif raw.type == names.HEARTBEAT:
                heartbeats.note(automation_id, Heartbeat.model_validate_json(raw.body))
            else:
                await refuse(message, f"no use for messages of type {raw.type!r}")
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            await refuse(message, f"{where}: {first['msg']}")
        await message.ack()


async def _dead_letter(dead: AbstractExchange, message: RabbitMessage, reason: str) -> None:
    raw = message.raw_message
    log.warning(
        "event_refused",
        type=raw.type,
        routing_key=raw.routing_key,
        reason=reason,
        **trace_ids(raw.headers),
    )
    await dead.publish(dead_letter(raw, reason), raw.routing_key or "", timeout=CONFIRM_TIMEOUT_S)


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

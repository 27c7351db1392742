"""Books what is delivered: batches into the ledger, heartbeats beside it, and what can't be booked to `dead`.

Nothing is acknowledged before it is in the ledger, or confirmed by the queue of dead letters.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog
from aio_pika import IncomingMessage

from contracts.messages import UsageRecorded
from contracts.retrying import retrying
from infra.background_tasks import BackgroundTasks
from infra.dead_letters import MAY_PASS, DeadLetters
from infra.deliveries import finish
from infra.isolated_writes import write_isolated
from infra.trace_headers import trace_ids
from workers.accounting.heartbeats import Heartbeats
from workers.accounting.intake import Delivery, Intake
from workers.accounting.leases import Refused, Report
from workers.accounting.ledger import Applied, Entry, Ledger
from workers.accounting.metrics import LedgerMetrics
from workers.accounting.reading import SignOfLife

log = structlog.get_logger()

#: Seconds until the next try where a batch or a dead letter could not be written.
RETRY_S = 2.0


class Booking:
    """Takes batches from the intake, one after the other."""

    def __init__(
        self,
        intake: Intake,
        ledger: Ledger,
        heartbeats: Heartbeats,
        dead: DeadLetters,
        metrics: LedgerMetrics | None = None,
    ) -> None:
        """Take where deliveries come from and where they go, and what counts those that are refused."""
        self._intake = intake
        self._ledger = ledger
        self._heartbeats = heartbeats
        self._dead = dead
        self._metrics = metrics
        self._tasks = BackgroundTasks("booking")
        self._refusing: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Book from now on.

        Raises:
            AMQPError: RabbitMQ refuses.
        """
        await self._intake.start()
        self._keeper = self._tasks.keep("book", self._keep)

    async def stop(self, grace_s: float) -> None:
        """Take nothing more, and give what was taken so long to be booked; the rest comes again.

        Args:
            grace_s: in seconds.
        """
        await self._intake.stop()
        if self._keeper is not None:
            await finish({self._keeper, *self._refusing}, grace_s)

    async def _keep(self) -> None:
        while batch := await self._intake.take():
            await retrying(
                partial(self._book, batch),
                passes=(Exception,),
                pause_s=RETRY_S,
                longest_pause_s=RETRY_S,
                note=partial(_note_unbooked, len(batch)),
            )

    async def _book(self, batch: Sequence[Delivery]) -> None:
        entries = [
            (delivery, delivery.event)
            for delivery in batch
            if isinstance(delivery.event, UsageRecorded | Report)
        ]
        answers = await self._apply([event for _, event in entries])
        done = []
        for delivery in batch:
            event = delivery.event
            if isinstance(event, Refused):
                self._refuse(delivery, event.reason)
            elif isinstance(event, SignOfLife):
                self._heartbeats.note(event.automation_id, event.heartbeat)
                done.append(delivery)
        for (delivery, event), applied in zip(entries, answers, strict=True):
            if isinstance(applied, Refused):
                self._refuse(delivery, applied.reason)
                continue
            done.append(delivery)
            if not applied:
                log.info(
                    "event_repeated",
                    request_id=event.request_id if isinstance(event, UsageRecorded) else event.lease_id,
                    automation_id=event.automation_id,
                    **trace_ids(delivery.message.header.properties.headers),
                )
        await self._intake.settle(done)

    async def _apply(self, entries: Sequence[Entry]) -> Sequence[Applied]:
        """Write entries into the ledger; one that can't be written is refused alone."""
        if not entries:
            return ()
        return [_applied(answer) for answer in await write_isolated(self._ledger.apply, entries)]

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        refusing = self._tasks.start("refuse", self._dead_letter(delivery, reason))
        self._refusing.add(refusing)
        refusing.add_done_callback(self._refusing.discard)

    async def _dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Have the queue of dead letters confirm a delivery, unless it comes again."""
        original = IncomingMessage(delivery.message)
        log.warning(
            "event_refused",
            type=original.type,
            routing_key=original.routing_key,
            reason=reason,
            **trace_ids(original.headers),
        )
        try:
            is_dead = await retrying(
                partial(self._publish_dead, delivery, original, reason),
                passes=MAY_PASS,
                pause_s=RETRY_S,
                longest_pause_s=RETRY_S,
                note=_note_undead,
            )
        except Exception:
            # It would hold up the acknowledgement of all that came after it.
            log.exception("dead_letter_impossible", routing_key=original.routing_key, reason=reason)
            is_dead = True
        if not is_dead:
            self._intake.let_go([delivery])
            return
        if self._metrics is not None:
            self._metrics.refused(original.type)
        await self._intake.settle([delivery])

    async def _publish_dead(self, delivery: Delivery, original: IncomingMessage, reason: str) -> bool:
        """Publish a dead letter once, unless the delivery comes again; whether it was published."""
        if delivery.consumer.ended.is_set():
            return False
        await self._dead.publish_once(original, reason, routing_key=original.routing_key or "")
        return True


def _applied(answer: Applied | Exception) -> Applied:
    """What became of an entry; one that can't be written is refused alone."""
    if not isinstance(answer, Exception):
        return answer
    log.error("event_not_booked", exc_info=answer)
    return Refused(f"it can't be stored: {type(answer).__name__}")


def _note_undead(error: Exception) -> None:
    log.warning("dead_letter_delayed", error=type(error).__name__, retry_in_s=RETRY_S)


def _note_unbooked(deliveries: int, error: Exception) -> None:
    log.error("batch_not_booked", deliveries=deliveries, retry_in_s=RETRY_S, exc_info=error)

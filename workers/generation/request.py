"""One request's life: read, claim and reserve, call, record, reply and account, acknowledge."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog

from contracts.errors import ErrorCode
from contracts.message_size import MessageTooLargeError
from infra.deliveries import Delivery, unless_closed
from infra.mongo import PyMongoError
from infra.settings import Settings
from workers.generation.attempts import PATIENCE_S, Answered, Attempts, Gone, PutOff
from workers.generation.automation import Automation
from workers.generation.booking import Booking
from workers.generation.chunks import Chunks
from workers.generation.claiming import Claiming
from workers.generation.journal import Call, Differs, Done, Journal, Record
from workers.generation.metrics import CANCELLED, REPEAT, RequestMetrics
from workers.generation.publishing import Publisher
from workers.generation.reading import Envelope, Invalid, Request, read
from workers.generation.recording import INTERNAL_MESSAGE, Recording
from workers.generation.replies import NobodyWaitsError, Replies
from workers.generation.result import FIRST, REPEATED, Error, Progress, failed, failure_message, too_large
from workers.generation.work import HandedBackError, LaneFullError, Result, Work
from workers.keys.pool import Reservation

log = structlog.get_logger()

#: Pause before a delivery is handed back while MongoDB is away, in seconds.
HAND_BACK_AFTER_S = 2.0
OTHER_REQUEST = "the request id was used before, for a request with another path or body"


class RequestHandler:
    """Does the requests of one worker."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        attempts: Attempts,
        replies: Replies,
        *,
        publisher: Publisher,
        now: Callable[[], float],
        metrics: RequestMetrics | None = None,
    ) -> None:
        """Take the parts of a worker, the time on MongoDB's clock (seconds since the epoch), what counts."""
        self._settings = settings
        self._now = now
        self._journal = journal
        self._attempts = attempts
        self._replies = replies
        self._publisher = publisher
        self._booking = Booking(publisher, metrics)
        self._claiming = Claiming(journal, attempts, replies)
        self._recording = Recording(journal, replies, self._booking, now)
        self._metrics = metrics

    async def handle(self, message: Delivery, automation: Automation, *, ended: Error | None = None) -> None:
        """Do one delivery, whatever comes: it is answered and acknowledged, dead-lettered, or handed back.

        Args:
            message: the delivery.
            automation: whose it is.
            ended: how the broker ended it; it lies among the dead letters, and is answered without a call.

        Raises:
            LaneFullError: nothing was done with it, since no key has room for long.
        """
        request = read(
            message,
            automation.id,
            deadline_s=automation.deadline_s,
            max_body_bytes=self._settings.max_body_bytes,
            now=self._now(),
        )
        envelope = request.envelope
        try:
            if isinstance(request, Invalid):
                invalid = Error(ErrorCode.INVALID_REQUEST, request.reason)
                await self._refuse(message, envelope, invalid, is_dead=ended is not None)
            else:
                await self._do(message, request, automation, ended)
        except LaneFullError:
            raise
        except NobodyWaitsError:
            self._count(automation.id, CANCELLED)
        except (HandedBackError, asyncio.CancelledError):
            await unless_closed(message.nack(requeue=True), envelope)
            return
        except PyMongoError as error:
            log.warning("request_handed_back", about=envelope, error=type(error).__name__)
            await asyncio.sleep(HAND_BACK_AFTER_S)
            await unless_closed(message.nack(requeue=True), envelope)
            return
        except Exception:
            log.exception("request_failed_inside", about=envelope)
            internal = Error(ErrorCode.INTERNAL, INTERNAL_MESSAGE)
            await self._refuse(message, envelope, internal, is_dead=ended is not None)
        await self._acknowledge(message, envelope)

    async def _do(
        self,
        message: Delivery,
        request: Request,
        automation: Automation,
        ended: Error | None,
    ) -> None:
        """One request's life: claim and reserve, call, record, reply and account.

        Until the result is recorded, a failure leaves the request to whom it is delivered to next, or is
        itself the result. From then on the recorded result is the only one: a failure hands the delivery
        back, and who gets it repeats that result.
        """
        work = await self._claiming.claim(message, request, automation, ended)
        if isinstance(work, Done):
            async with self._handing_back(request.envelope):
                await self._repeat(message, request, work, is_dead=ended is not None)
            return
        if isinstance(work, Differs):
            other = Error(ErrorCode.INVALID_REQUEST, OTHER_REQUEST, param="request_id")
            await self._refuse(message, request.envelope, other, is_dead=ended is not None)
            return
        try:
            if work.claim.unknown is not None:
                work.calling = True
                await self._booking.unknown(work, work.claim.unknown)
                work.calling = False
            result = await self._result(work)
            result.is_mine = await self._record(work, result.record)
        except BaseException:
            unknown = work.calling or work.answered is not None
            begun = bool(work.progress.attempts) or unknown
            await self._journal.abandon(work.claim, begun=begun, calling=unknown)
            raise
        async with self._handing_back(request.envelope):
            await self._reply(work, result)
        if not result.is_mine:
            # Who took the request over answers another delivery of it, which may have another address.
            log.warning("claim_lost", about=request.envelope)
            raise HandedBackError
        self._tell(work, result)

    async def _result(self, work: Work) -> Result:
        """Call, and say how the request has ended.

        Raises:
            LaneFullError: no key has room for long.
            NobodyWaitsError: who asked for a stream is gone.
        """
        outcome = await self._outcome(work)
        work.calling = False
        if isinstance(outcome, PutOff):
            await asyncio.gather(*work.accounted)
            raise LaneFullError(outcome.wait_s)
        if isinstance(outcome, Gone):
            await asyncio.gather(*work.accounted)
            raise NobodyWaitsError
        return self._recording.result(work, outcome)

    async def _record(self, work: Work, record: Record) -> bool:
        """Keep the result; False where another worker will answer the request."""
        return await self._recording.keep(work, record)

    async def _reply(self, work: Work, result: Result) -> None:
        """Send the result that is recorded, with its usage and its dead letter side by side."""
        self._booking.answer(work)
        sending: list[Awaitable[None]] = [*work.accounted]
        if result.is_mine:
            sending.append(self._send(work, result))
            if result.status == ErrorCode.INTERNAL and work.ended is None:
                sending.append(self._bury(work.message, work.request.envelope, result.why))
        await asyncio.gather(*sending)

    async def _send(self, work: Work, result: Result) -> None:
        """Send a result; where RabbitMQ turns out not to take one so large, an error in its place."""
        envelope = work.request.envelope
        try:
            await self._replies.result(envelope, result.body, FIRST)
        except MessageTooLargeError as error:
            refused = refused_size(envelope, error)
            result.status = refused.code.value
            if work.ended is None:
                await self._bury(work.message, envelope, refused.message)
            body = failed(envelope, work.progress, refused, self._now())
            await self._replies.result(envelope, body, FIRST)

    @asynccontextmanager
    async def _handing_back(self, envelope: Envelope) -> AsyncIterator[None]:
        """Hand a delivery back for a failure that must not end in a result, since one is recorded."""
        try:
            yield
        except Exception as error:
            log.exception("request_handed_back", about=envelope, error=type(error).__name__)
            await asyncio.sleep(HAND_BACK_AFTER_S)
            raise HandedBackError from error

    async def _acknowledge(self, message: Delivery, envelope: Envelope) -> None:
        """Acknowledge; where that fails, the delivery comes again, and its result is repeated."""
        try:
            await unless_closed(message.ack(), envelope)
        except Exception:
            log.exception("delivery_not_acknowledged", about=envelope)

    def _tell(self, work: Work, result: Result) -> None:
        """Count and log a request that has its reply."""
        envelope = work.request.envelope
        self._counted(lambda metrics: metrics.answered(envelope, work.progress, result.status, self._now()))
        log.info(
            "request_finished",
            about=envelope,
            status=result.status,
            attempts=len(work.progress.attempts),
            total_ms=round((self._now() - envelope.published_at) * 1000),
        )

    async def _outcome(self, work: Work) -> Answered | Error | PutOff | Gone:
        """How the request ends; our own failures are an end too."""
        ended = work.ended or self._poison(work)
        if ended is not None or work.reserving is None:
            await self._attempts.withdraw(work.reserving)
            return ended or Error(ErrorCode.AUTOMATION_DISABLED, "an operator switched the automation off")
        try:
            return await self._attempts.run(
                work.request,
                work.reserving,
                work.progress,
                run=work.claim.run,
                call_timeout_s=work.automation.call_timeout_s,
                max_in_flight=work.automation.max_in_flight,
                chunks=work.chunks,
                on_call=partial(self._begin, work),
                on_attempt=partial(self._booking.attempt, work),
            )
        except (PyMongoError, HandedBackError):
            raise
        except Exception:
            log.exception("request_failed_inside", about=work.request.envelope)
            return Error(ErrorCode.INTERNAL, INTERNAL_MESSAGE)

    def _poison(self, work: Work) -> Error | None:
        """A request that took its worker with it again and again is not tried once more.

        One without an id is known by its deliveries: more than its waiting alone can explain.
        """
        limit, envelope = self._settings.crash_limit, work.request.envelope
        if work.claim.crashes >= limit:
            return Error(ErrorCode.INTERNAL, f"{work.claim.crashes} workers died of this request")
        waits = (work.request.deadline - envelope.published_at) / PATIENCE_S
        if not envelope.has_id and envelope.deliveries >= limit + waits:
            message = f"the request was delivered {envelope.deliveries} times without an answer"
            return Error(ErrorCode.INTERNAL, message)
        return None

    async def _begin(self, work: Work, reserved: Reservation, number: int) -> None:
        """Have the journal know of a call before it is made; the claim itself may have said so.

        Raises:
            HandedBackError: another worker has taken the request over.
        """
        call = Call.of(reserved, number)
        if call != work.call:
            # The journal forgets the call before with this one: the books have to know of that first.
            await asyncio.gather(*work.accounted)
        if call != work.call and not await self._journal.begin(work.claim, call):
            log.warning("claim_lost", about=work.request.envelope)
            raise HandedBackError
        work.call, work.calling = call, True

    async def _repeat(self, message: Delivery, request: Request, done: Done, *, is_dead: bool) -> None:
        """Answer from the journal; the events go out again first, and count once.

        A worker that had the delivery before may have died between the record and the dead letter: so that
        is written again.
        """
        envelope = request.envelope
        is_buried = is_dead or not _was_delivered(message, envelope)
        for event in done.events:
            await self._publisher.usage(envelope, event)
        if done.status == ErrorCode.INTERNAL and not is_buried:
            await self._bury(message, envelope, failure_message(done.result + REPEATED))
        result = done.result
        with suppress(NobodyWaitsError):
            if request.wants_chunks:
                chunks = Chunks(self._replies, envelope, restarted=True)
                await chunks.repeat(done.chunks)
                if chunks.too_large is not None:
                    refused = too_large(chunks.too_large, "a chunk of the answer")
                    result = failed(envelope, Progress(), refused, self._now())
            try:
                await self._replies.result(envelope, result, REPEATED)
            except MessageTooLargeError as error:
                refused = refused_size(envelope, error)
                if not is_buried:
                    await self._bury(message, envelope, refused.message)
                body = failed(envelope, Progress(), refused, self._now())
                await self._replies.result(envelope, body, REPEATED)
        self._count(envelope.automation_id, REPEAT)
        log.info("request_repeated", about=envelope)

    async def _refuse(self, message: Delivery, envelope: Envelope, error: Error, *, is_dead: bool) -> None:
        """Dead-letter what can't be done with its reason, and answer it where it says to whom.

        The dead letter comes first, since nothing may fail after the answer.
        """
        log.warning("request_refused", about=envelope, reason=error.message)
        if not is_dead:
            await self._bury(message, envelope, f"{error.code}: {error.message}")
        # Whoever had the delivery before may have answered it.
        end = REPEATED if _was_delivered(message, envelope) else FIRST
        await self._replies.result(envelope, failed(envelope, Progress(), error, self._now()), end)
        self._count(envelope.automation_id, error.code.value)

    async def _bury(self, message: Delivery, envelope: Envelope, reason: str) -> None:
        """Write a dead letter; one that can't be written keeps nobody from the answer."""
        try:
            await self._publisher.dead_letter(message, envelope, reason)
        except Exception:
            log.exception("dead_letter_not_written", about=envelope)

    def _count(self, automation_id: str, outcome: str) -> None:
        self._counted(lambda metrics: metrics.ended(automation_id, outcome))

    def _counted(self, count: Callable[[RequestMetrics], None]) -> None:
        """Count what has its reply; no failure of that changes how it ended."""
        if self._metrics is None:
            return
        try:
            count(self._metrics)
        except Exception:
            log.exception("request_not_counted")


def refused_size(envelope: Envelope, error: MessageTooLargeError) -> Error:
    """Why RabbitMQ turns out not to take an answer."""
    log.warning("answer_too_large", about=envelope, size=error.size, limit=error.limit)
    return too_large(error, "the answer")


def _was_delivered(message: Delivery, envelope: Envelope) -> bool:
    """Whether a worker had the delivery before."""
    return bool(message.redelivered or envelope.deliveries)

"""One request's life: read, claim and reserve, call, record, reply and account, acknowledge."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import structlog

from contracts.errors import ErrorCode
from contracts.message_size import MessageTooLargeError
from contracts.retrying import retrying
from infra.deliveries import Delivery, unless_closed
from infra.mongo import Document, PyMongoError
from infra.mongo_errors import may_pass
from infra.settings import Settings
from workers.generation.attempts import PATIENCE_S, Answered, Attempts, Gone, PutOff, Reserving
from workers.generation.automation import Automation
from workers.generation.booking import Booking
from workers.generation.chunks import Chunks
from workers.generation.journal import Asked, Call, Claim, Differs, Done, Journal, Record, Running
from workers.generation.metrics import CANCELLED, REPEAT, RequestMetrics
from workers.generation.publishing import Publisher
from workers.generation.reading import Envelope, Invalid, Request, read
from workers.generation.replies import NobodyWaitsError, Replies
from workers.generation.result import (
    FIRST,
    REPEATED,
    Error,
    Progress,
    failed,
    succeeded,
    timings,
    too_large,
)
from workers.generation.work import HandedBackError, LaneFullError, Result, Work
from workers.keys.pool import Reservation

log = structlog.get_logger()

#: How often to look whether a request that is under way elsewhere is done, in seconds.
LOOK_AGAIN_S = 1.0
#: How often to look before the delivery is handed back.
LOOKS = 20
#: Pause before a delivery is handed back while MongoDB is away, in seconds.
HAND_BACK_AFTER_S = 2.0
#: Seconds between attempts to keep a result while MongoDB is away.
RECORD_RETRY_S = 0.5
#: The number of a request's first attempt.
FIRST_NUMBER = 1
#: The largest result that is kept, in bytes: with its events it fits into a document of MongoDB (16 MiB).
LARGEST_KEPT_BYTES = 15 * 1024 * 1024
SUCCEEDED = "succeeded"
OTHER_REQUEST = "the request id was used before, for a request with another path or body"
INTERNAL_MESSAGE = "Keyway failed inside; the workers' logs say how"


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
        work = await self._claim(message, request, automation, ended)
        if isinstance(work, Done):
            async with self._handing_back(request.envelope):
                await self._repeat(request, work)
            return
        if isinstance(work, Differs):
            other = Error(ErrorCode.INVALID_REQUEST, OTHER_REQUEST)
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
        self._tell(work, result)

    async def _claim(
        self, message: Delivery, request: Request, automation: Automation, ended: Error | None
    ) -> Work | Done | Differs:
        """Reserve and claim; a claim names the call that follows it, so that the two are one write."""
        is_wanted = ended is None and automation.enabled
        asked = Asked.of(request)
        reserving: Reserving | None = None
        call = None
        try:
            if is_wanted:
                reserving = self._reserve(request, automation)
                first = await self._attempts.first(reserving)
                call = None if first is None else _call(first, FIRST_NUMBER)
            claim = await self._journal.claim(asked, call)
            if isinstance(claim, Running):
                await self._attempts.withdraw(reserving)
                reserving = None
                claim = await self._claim_later(asked)
                if is_wanted and isinstance(claim, Claim):
                    reserving, call = self._reserve(request, automation), None
        except BaseException:
            await self._attempts.withdraw(reserving)
            raise
        if not isinstance(claim, Claim):
            await self._attempts.withdraw(reserving)
            return claim
        if claim.run:
            log.warning("claim_taken_over", about=request.envelope, owner=claim.left_by, run=claim.run)
        work = Work(message, request, automation, claim, reserving, ended)
        if request.wants_chunks:
            work.chunks = Chunks(self._replies, request.envelope, restarted=claim.run > 0)
        work.call = call if claim.run == 0 else None
        return work

    def _reserve(self, request: Request, automation: Automation) -> Reserving:
        return asyncio.create_task(self._attempts.reserve(request, automation.max_in_flight))

    async def _claim_later(self, asked: Asked) -> Claim | Done | Differs:
        """Claim a request that is under way elsewhere: it is waited for a while, then handed back."""
        for _ in range(LOOKS):
            await asyncio.sleep(LOOK_AGAIN_S)
            claim = await self._journal.claim(asked)
            if not isinstance(claim, Running):
                return claim
        raise HandedBackError

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
        try:
            return self._built(work, outcome)
        except Exception:
            log.exception("request_failed_inside", about=work.request.envelope)
            return self._built(work, Error(ErrorCode.INTERNAL, INTERNAL_MESSAGE))

    def _built(self, work: Work, outcome: Answered | Error) -> Result:
        envelope = work.request.envelope
        if isinstance(outcome, Answered):
            status, body = SUCCEEDED, succeeded(envelope, work.progress, outcome.raw, self._now())
        else:
            status, body = outcome.code.value, failed(envelope, work.progress, outcome, self._now())
        undelivered = self._too_large(work, body)
        if undelivered is not None:
            self._booking.undeliverable(work)
            status = undelivered.code.value
            body = failed(envelope, work.progress, undelivered, self._now())
        why = INTERNAL_MESSAGE if undelivered is None else undelivered.message
        return Result(status, body, self._kept(work, status, body), why)

    async def _reply(self, work: Work, result: Result) -> None:
        """Send the result that is recorded, with its usage and its dead letter side by side."""
        self._booking.answer(work)
        sending: list[Awaitable[None]] = [*work.accounted]
        if result.status == ErrorCode.INTERNAL and work.ended is None:
            sending.append(self._publisher.dead_letter(work.message, work.request.envelope, result.why))
        if result.is_mine:
            sending.append(self._send(work, result))
        await asyncio.gather(*sending)

    async def _send(self, work: Work, result: Result) -> None:
        """Send a result; where RabbitMQ turns out not to take one so large, an error in its place."""
        envelope = work.request.envelope
        try:
            await self._replies.result(envelope, result.body, FIRST)
        except MessageTooLargeError as error:
            refused = self._refused_size(envelope, error)
            result.status = refused.code.value
            if work.ended is None:
                await self._publisher.dead_letter(work.message, envelope, refused.message)
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
        if result.is_mine:
            self._counted(
                lambda metrics: metrics.answered(envelope, work.progress, result.status, self._now())
            )
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
        call = _call(reserved, number)
        if call != work.call and not await self._journal.begin(work.claim, call):
            log.warning("claim_lost", about=work.request.envelope)
            raise HandedBackError
        work.call, work.calling = call, True

    async def _record(self, work: Work, record: Record) -> bool:
        """Keep the result, however long MongoDB is away: an answer that was paid for is not thrown away.

        Of one that MongoDB refuses for good, only the fact is kept: the answer goes out all the same.
        """
        envelope = work.request.envelope

        def note(error: Exception) -> None:
            log.warning("record_delayed", about=envelope, error=type(error).__name__)

        keep = partial(
            retrying, passes=may_pass, pause_s=RECORD_RETRY_S, longest_pause_s=RECORD_RETRY_S, note=note
        )
        try:
            return await keep(partial(self._journal.record, record))
        except Exception as error:
            if may_pass(error):
                raise
            # Without the error itself, which may hold a part of the answer.
            log.error("result_not_kept", about=envelope, error=type(error).__name__)  # noqa: TRY400
            return await keep(partial(self._journal.record, self._not_kept(work, record.status)))

    async def _repeat(self, request: Request, done: Done) -> None:
        """Answer from the journal; the events go out again first, and count once."""
        envelope = request.envelope
        for event in done.events:
            await self._publisher.usage(envelope, event)
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
                refused = self._refused_size(envelope, error)
                body = failed(envelope, Progress(), refused, self._now())
                await self._replies.result(envelope, body, REPEATED)
        self._count(envelope.automation_id, REPEAT)
        log.info("request_repeated", about=envelope)

    def _too_large(self, work: Work, result: bytes) -> Error | None:
        """Why an answer is known to be too large to be delivered, where it is to go anywhere."""
        if work.request.envelope.reply_to is None:
            return None
        if work.chunks is not None and work.chunks.too_large is not None:
            return too_large(work.chunks.too_large, "a chunk of the answer")
        try:
            self._replies.check_size(len(result) + len(REPEATED))
        except MessageTooLargeError as error:
            return too_large(error, "the answer")
        return None

    def _refused_size(self, envelope: Envelope, error: MessageTooLargeError) -> Error:
        log.warning("answer_too_large", about=envelope, size=error.size, limit=error.limit)
        return too_large(error, "the answer")

    async def _refuse(self, message: Delivery, envelope: Envelope, error: Error, *, is_dead: bool) -> None:
        """Dead-letter what can't be done with its reason, and answer it where it says to whom.

        The dead letter comes first, since nothing may fail after the answer. One that can't be written keeps
        nobody from the answer.
        """
        log.warning("request_refused", about=envelope, reason=error.message)
        if not is_dead:
            try:
                await self._publisher.dead_letter(message, envelope, f"{error.code}: {error.message}")
            except Exception:
                log.exception("dead_letter_not_written", about=envelope)
        # Whoever had the delivery before may have answered it.
        end = REPEATED if message.redelivered or envelope.deliveries else FIRST
        await self._replies.result(envelope, failed(envelope, Progress(), error, self._now()), end)
        self._count(envelope.automation_id, error.code.value)

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

    def _kept(self, work: Work, status: str, result: bytes) -> Record:
        """What the journal keeps of a result: all of it, unless MongoDB can't hold it."""
        chunks = work.chunks.packed() if work.chunks is not None and status == SUCCEEDED else b""
        if chunks is None or len(result) + len(chunks) > LARGEST_KEPT_BYTES:
            bare = self._not_kept(work, status, "is too large to be kept")
            return replace(bare, events=work.events, facts=self._facts(work))
        return Record(work.claim, status, result, work.events, chunks, self._facts(work))

    def _not_kept(self, work: Work, status: str, why: str = "could not be kept") -> Record:
        """What a repeat is told of a result that MongoDB can't hold; nothing in it is from outside."""
        error = Error(ErrorCode.INTERNAL, f"the answer was delivered once, and {why}")
        return Record(work.claim, status, failed(work.request.envelope, Progress(), error, self._now()), [])

    def _facts(self, work: Work) -> Document:
        """What the journal tells operators of a request; whose it is and what for, where no attempt does."""
        request = work.request
        facts: Document = {"timings": timings(request.envelope, work.progress, self._now())}
        if not work.events:
            asked = {"user_id": request.user_id, "model": request.model, "path": request.path.value}
            facts |= {"unattempted": True, **asked}
        return facts


def _call(reserved: Reservation, number: int) -> Call:
    return Call(number, reserved.key.id, reserved.key.alias, reserved.tokens, reserved.second)

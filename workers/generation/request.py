"""One request's life: read, claim and reserve, call, record, reply and account, acknowledge."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
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
from workers.generation.journal import Call, Claim, Done, Journal, Record, Running
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
from workers.generation.work import HandedBackError, LaneFullError, Work
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
        try:
            if isinstance(request, Invalid):
                invalid = Error(ErrorCode.INVALID_REQUEST, request.reason)
                await self._refuse(message, request.envelope, invalid, is_dead=ended is not None)
            else:
                await self._do(message, request, automation, ended)
            await unless_closed(message.ack(), request.envelope)
        except LaneFullError:
            raise
        except NobodyWaitsError:
            await unless_closed(message.ack(), request.envelope)
            self._count(automation.id, CANCELLED)
        except (HandedBackError, asyncio.CancelledError):
            await unless_closed(message.nack(requeue=True), request.envelope)
        except PyMongoError as error:
            log.warning("request_handed_back", about=request.envelope, error=type(error).__name__)
            await asyncio.sleep(HAND_BACK_AFTER_S)
            await unless_closed(message.nack(requeue=True), request.envelope)
        except Exception:
            log.exception("request_failed_inside", about=request.envelope)
            internal = Error(ErrorCode.INTERNAL, INTERNAL_MESSAGE)
            await self._refuse(message, request.envelope, internal, is_dead=ended is not None)
            await unless_closed(message.ack(), request.envelope)

    async def _do(
        self,
        message: Delivery,
        request: Request,
        automation: Automation,
        ended: Error | None,
    ) -> None:
        """Reserve and claim; then answer, or repeat the answer that was given before.

        A claim names the call that follows it, so that the two are one write.
        """
        is_wanted = ended is None and automation.enabled
        envelope = request.envelope
        reserving: Reserving | None = None
        call = None
        try:
            if is_wanted:
                reserving = self._reserve(request, automation)
                first = await self._attempts.first(reserving)
                call = None if first is None else _call(first, FIRST_NUMBER)
            claim = await self._journal.claim(envelope.automation_id, envelope.request_id, call)
            if isinstance(claim, Running):
                await self._attempts.withdraw(reserving)
                reserving = None
                claim = await self._claim_later(request)
                if is_wanted and not isinstance(claim, Done):
                    reserving, call = self._reserve(request, automation), None
        except BaseException:
            await self._attempts.withdraw(reserving)
            raise
        if isinstance(claim, Done):
            await self._attempts.withdraw(reserving)
            await self._repeat(request, claim)
            return
        if claim.run:
            log.warning("claim_taken_over", about=envelope, owner=claim.left_by, run=claim.run)
        work = Work(message, request, automation, claim, reserving, ended)
        if request.wants_chunks:
            work.chunks = Chunks(self._replies, envelope, restarted=claim.run > 0)
        work.call = call if claim.run == 0 else None
        try:
            if claim.unknown is not None:
                work.calling = True
                await self._booking.unknown(work, claim.unknown)
                work.calling = False
            await self._answer(work)
        except BaseException:
            unknown = work.calling or work.answered is not None
            begun = bool(work.progress.attempts) or unknown
            await self._journal.abandon(claim, begun=begun, calling=unknown)
            raise

    def _reserve(self, request: Request, automation: Automation) -> Reserving:
        return asyncio.create_task(self._attempts.reserve(request, automation.max_in_flight))

    async def _claim_later(self, request: Request) -> Claim | Done:
        """Claim a request that is under way elsewhere: it is waited for a while, then handed back."""
        for _ in range(LOOKS):
            await asyncio.sleep(LOOK_AGAIN_S)
            claim = await self._journal.claim(request.envelope.automation_id, request.envelope.request_id)
            if not isinstance(claim, Running):
                return claim
        raise HandedBackError

    async def _answer(self, work: Work) -> None:
        """Call, record, then reply and account side by side."""
        envelope = work.request.envelope
        outcome = await self._outcome(work)
        work.calling = False
        if isinstance(outcome, PutOff):
            await asyncio.gather(*work.accounted)
            raise LaneFullError(outcome.wait_s)
        if isinstance(outcome, Gone):
            await asyncio.gather(*work.accounted)
            raise NobodyWaitsError
        if isinstance(outcome, Answered):
            status, result = SUCCEEDED, succeeded(envelope, work.progress, outcome.raw, self._now())
        else:
            status, result = outcome.code.value, failed(envelope, work.progress, outcome, self._now())
        undelivered = self._too_large(work, result)
        if undelivered is not None:
            self._booking.undeliverable(work)
            status, result = undelivered.code.value, failed(envelope, work.progress, undelivered, self._now())
        is_mine = await self._record(work, self._kept(work, status, result))
        self._booking.answer(work)
        if is_mine and (refused := await self._reply(envelope, work.progress, result, FIRST)) is not None:
            status, undelivered = refused.code.value, refused
        await asyncio.gather(*work.accounted)
        if status == ErrorCode.INTERNAL and work.ended is None:
            reason = INTERNAL_MESSAGE if undelivered is None else undelivered.message
            await self._publisher.dead_letter(work.message, envelope, reason)
        if is_mine and self._metrics is not None:
            self._metrics.answered(envelope, work.progress, status, self._now())
        log.info(
            "request_finished",
            about=envelope,
            status=status,
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
        """Answer from the journal; the events go out again too, and count once."""
        envelope = request.envelope
        result = done.result
        with suppress(NobodyWaitsError):
            if request.wants_chunks:
                chunks = Chunks(self._replies, envelope, restarted=True)
                await chunks.repeat(done.chunks)
                if chunks.too_large is not None:
                    refused = too_large(chunks.too_large, "a chunk of the answer")
                    result = failed(envelope, Progress(), refused, self._now())
            await self._reply(envelope, Progress(), result, REPEATED)
        for event in done.events:
            await self._publisher.usage(envelope, event)
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

    async def _reply(self, envelope: Envelope, progress: Progress, result: bytes, end: bytes) -> Error | None:
        """Send a result; where RabbitMQ turns out not to take one so large, send that instead.

        Returns:
            The error that was sent in the result's place.
        """
        try:
            await self._replies.result(envelope, result, end)
        except MessageTooLargeError as error:
            log.warning("answer_too_large", about=envelope, size=error.size, limit=error.limit)
            refused = too_large(error, "the answer")
            await self._replies.result(envelope, failed(envelope, progress, refused, self._now()), end)
            return refused
        return None

    async def _refuse(self, message: Delivery, envelope: Envelope, error: Error, *, is_dead: bool) -> None:
        """Answer what can't be done, where it says to whom, and dead-letter it with the reason."""
        log.warning("request_refused", about=envelope, reason=error.message)
        await self._replies.result(envelope, failed(envelope, Progress(), error, self._now()), FIRST)
        self._count(envelope.automation_id, error.code.value)
        if not is_dead:
            reason = f"{error.code}: {error.message}"
            await self._publisher.dead_letter(message, envelope, reason)

    def _count(self, automation_id: str, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.ended(automation_id, outcome)

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

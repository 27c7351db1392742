"""What becomes of a request's outcome: the result that is sent, and the record that the journal keeps."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from contracts.errors import ErrorCode
from contracts.message_size import MessageTooLargeError
from contracts.retrying import retrying
from infra.mongo import Document
from infra.mongo_errors import may_pass
from workers.generation.attempts import Answered
from workers.generation.booking import Booking
from workers.generation.journal import Journal, Record
from workers.generation.replies import Replies
from workers.generation.result import REPEATED, Error, Progress, failed, succeeded, timings, too_large
from workers.generation.work import Result, Work

log = structlog.get_logger()

#: Seconds between attempts to keep a result while MongoDB is away.
RECORD_RETRY_S = 0.5
#: The largest result that is kept, in bytes: with its events it fits into a document of MongoDB (16 MiB).
LARGEST_KEPT_BYTES = 15 * 1024 * 1024
SUCCEEDED = "succeeded"
INTERNAL_MESSAGE = "Keyway failed inside; the workers' logs say how"


class Recording:
    """Builds the results of one worker's requests, and keeps them.

    Args:
        journal: keeps them.
        replies: knows how large an answer may be.
        booking: is told of an answer that can't be delivered.
        now: the time on MongoDB's clock, in seconds since the epoch.
    """

    def __init__(
        self, journal: Journal, replies: Replies, booking: Booking, now: Callable[[], float]
    ) -> None:
        self._journal = journal
        self._replies = replies
        self._booking = booking
        self._now = now

    def result(self, work: Work, outcome: Answered | Error) -> Result:
        """The result of a request; our own failure, where it can't be built.

        Args:
            work: of the request.
            outcome: how it ended.
        """
        try:
            return self._built(work, outcome)
        except Exception:
            log.exception("request_failed_inside", about=work.request.envelope)
            return self._built(work, Error(ErrorCode.INTERNAL, INTERNAL_MESSAGE))

    async def keep(self, work: Work, record: Record) -> bool:
        """Keep a result, however long MongoDB is away: an answer that was paid for is not thrown away.

        Of one that MongoDB refuses for good, only the fact is kept: the answer goes out all the same.

        Args:
            work: of the request.
            record: what is to be kept.

        Returns:
            False where another worker has taken the request over meanwhile, and will answer it.

        Raises:
            PyMongoError: MongoDB refuses even that.
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

    def _built(self, work: Work, outcome: Answered | Error) -> Result:
        envelope = work.request.envelope
        if isinstance(outcome, Answered):
            status, why = SUCCEEDED, ""
            body = succeeded(envelope, work.progress, outcome.raw, self._now())
        else:
            status, why = outcome.code.value, outcome.message
            body = failed(envelope, work.progress, outcome, self._now())
        undelivered = self._too_large(work, body)
        if undelivered is not None:
            self._booking.undeliverable(work)
            status, why = undelivered.code.value, undelivered.message
            body = failed(envelope, work.progress, undelivered, self._now())
        return Result(status, body, self._kept(work, status, body), why)

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

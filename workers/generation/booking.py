"""Tells accounting of each attempt, and when: so that none is booked twice, and none is forgotten."""

import asyncio
from dataclasses import replace

import structlog

from contracts.messages import Outcome
from infra.background_tasks import BackgroundTasks
from workers.generation.journal import Call
from workers.generation.metrics import RequestMetrics
from workers.generation.publishing import Publisher
from workers.generation.reading import Request
from workers.generation.result import AttemptRecord, usage_event
from workers.generation.work import Work

log = structlog.get_logger()

#: The error code of a call whose answer RabbitMQ does not carry.
ANSWER_TOO_LARGE = "answer_too_large"


class Booking:
    """Usage events of the requests of one worker."""

    def __init__(self, publisher: Publisher, metrics: RequestMetrics | None = None) -> None:
        """Take what publishes them, and what counts them."""
        self._publisher = publisher
        self._metrics = metrics
        self._tasks = BackgroundTasks("booking")

    def attempt(self, work: Work, attempt: AttemptRecord, settled: asyncio.Future[None]) -> None:
        """Publish an attempt's usage: a failure's as it ends, so that a dead key is seen at once.

        An answer's waits for its record: once it is booked as what it was, nobody calls again.

        Args:
            work: of the request.
            attempt: that has ended.
            settled: done when its reservation is settled.
        """
        work.calling = False
        event = self._event(work, attempt)
        if attempt.outcome is Outcome.OK:
            work.answered = event, settled
        else:
            self._publish_soon(work, event, settled)
            self._count(work, attempt)

    def answer(self, work: Work) -> None:
        """Publish the usage of the attempt that was answered, now that its result is recorded."""
        if work.answered is not None:
            (event, settled), work.answered = work.answered, None
            self._publish_soon(work, event, settled)
            self._count(work, work.progress.attempts[-1])

    def undeliverable(self, work: Work) -> None:
        """Have the ledger say of an answer that it could not be delivered; what it cost stays."""
        if work.answered is not None:
            _, settled = work.answered
            work.events.pop()
            attempt = replace(work.progress.attempts[-1], error_code=ANSWER_TOO_LARGE)
            work.answered = self._event(work, attempt), settled

    async def unknown(self, work: Work, call: Call) -> None:
        """Book a call that a run before this one began, and of which nobody knows whether it was made.

        The journal forgets it with the next call only: so it is booked before.
        """
        attempt = AttemptRecord(
            number=call.number,
            key_id=call.key_id,
            key_alias=call.key_alias,
            outcome=Outcome.AMBIGUOUS,
            http_status=None,
            error_code=None,
            latency_ms=0,
            reserved_tokens=call.reserved_tokens,
            model=work.request.model or "unknown",
            occurred_at=float(call.second),
        )
        log.warning("attempt_ambiguous", about=work.request.envelope, number=call.number)
        await self._publisher.usage(work.request.envelope, self._event(work, attempt))
        self._count(work, attempt)

    def _count(self, work: Work, attempt: AttemptRecord) -> None:
        if self._metrics is not None:
            self._metrics.attempt(work.request.envelope.automation_id, attempt)

    def _event(self, work: Work, attempt: AttemptRecord) -> bytes:
        request = work.request
        event = usage_event(request.envelope, request.path, request.user_id, attempt)
        work.events.append(event)
        return event

    def _publish_soon(self, work: Work, event: bytes, settled: asyncio.Future[None]) -> None:
        publishing = self._tasks.start("usage", self._publish(work.request, event, settled))
        work.accounted.append(publishing)

    async def _publish(self, request: Request, event: bytes, settled: asyncio.Future[None]) -> None:
        # After the settlement, since accounting raises the pool's count of the day to the ledger's.
        await settled
        await self._publisher.usage(request.envelope, event)

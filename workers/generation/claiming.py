"""Claims a request while its first key is reserved; waits for one that is under way elsewhere."""

import asyncio

import structlog

from infra.deliveries import Delivery
from workers.generation.attempts import Attempts, Reserving
from workers.generation.automation import Automation
from workers.generation.chunks import Chunks
from workers.generation.journal import Asked, Call, Claim, Differs, Done, Journal, Running
from workers.generation.reading import Request
from workers.generation.replies import Replies
from workers.generation.result import Error
from workers.generation.work import HandedBackError, Work

log = structlog.get_logger()

#: How often to look whether a request that is under way elsewhere is done, in seconds.
LOOK_AGAIN_S = 1.0
#: How often to look before the delivery is handed back.
LOOKS = 20
#: The number of a request's first attempt.
FIRST_NUMBER = 1


class Claiming:
    """Claims the requests of one worker.

    Args:
        journal: has the claims.
        attempts: reserves keys.
        replies: where the chunks of streams go.
    """

    def __init__(self, journal: Journal, attempts: Attempts, replies: Replies) -> None:
        self._journal = journal
        self._attempts = attempts
        self._replies = replies

    async def claim(
        self, message: Delivery, request: Request, automation: Automation, ended: Error | None
    ) -> Work | Done | Differs:
        """Reserve and claim; a claim names the call that follows it, so that the two are one write.

        Args:
            message: the delivery.
            request: what it holds.
            automation: whose it is.
            ended: how the broker ended it: then it needs no key.

        Returns:
            The work; or its result, where it is done; or that its id is another request's.

        Raises:
            HandedBackError: it is under way elsewhere for long.
            PyMongoError: MongoDB is away or refused.
        """
        is_wanted = ended is None and automation.enabled
        asked = Asked.of(request)
        reserving: Reserving | None = None
        call = None
        try:
            if is_wanted:
                reserving = self._reserve(request, automation)
                first = await self._attempts.first(reserving)
                call = None if first is None else Call.of(first, FIRST_NUMBER)
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

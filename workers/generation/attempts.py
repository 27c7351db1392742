"""Attempts at the provider: key after key, until there is an answer or nothing more to try."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import structlog
from pydantic import SecretStr

from contracts.errors import ErrorCode
from infra.errors import VaultError
from infra.vault import Vault
from workers.generation.answers import Answer, Failure
from workers.generation.assembly import Assembly, hides_usage, streamed_content
from workers.generation.chunks import Chunks
from workers.generation.classification import CANCELLED, Next
from workers.generation.metrics import RequestMetrics
from workers.generation.reading import Request
from workers.generation.refusals import refused
from workers.generation.replies import NobodyWaitsError
from workers.generation.result import AttemptRecord, Error, Progress
from workers.generation.spending import answered, failed
from workers.generation.tokens import OutputAverages, estimate
from workers.generation.upstream import Upstream
from workers.keys.key import Key
from workers.keys.pool import KeyPool, Reservation, Reserved
from workers.keys.registry import open_secret
from workers.keys.selection import Ask, Later, Refusal, RefusalReason
from workers.keys.settlements import Settlement

log = structlog.get_logger()

#: Attempts that may fail for reasons that are the provider's before the request does.
MAX_PROVIDER_FAILURES = 6
#: Attempts of any kind before a request fails; fewer than `ATTEMPTS_PER_RUN`.
MAX_ATTEMPTS = 50
#: The longest first pause after a provider's failure, doubling, in seconds.
BACK_OFF_S = 0.25
BACK_OFF_MAX_S = 8.0
#: A reservation that is older when its call could start is given back and made anew, in seconds.
STALE_S = 2.0
#: How long a request may wait for a key in a worker before it waits in its queue, in seconds.
PATIENCE_S = 20.0
#: How long after its delivery a request may still begin to wait here, or go on, in seconds.
LONGEST_HELD_S = 50.0
#: How long a request may wait for a key before it is claimed without one, in seconds.
AT_ONCE_S = 0.5
#: Opened keys that are kept; the one that was opened first goes first.
MOST_SECRETS = 4096
#: Attempts are numbered from run * this, so that those of a dead worker's run keep their own numbers.
ATTEMPTS_PER_RUN = 100


Reserving: TypeAlias = asyncio.Task[Reserved]


@dataclass(frozen=True, slots=True)
class Answered:
    """The provider's answer, as the bytes that came."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class PutOff:
    """There will be no room for so long, in seconds: the request waits in its queue."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Gone:
    """Nobody takes the stream any more."""


class Attempts:
    """Makes the calls of a worker's requests."""

    def __init__(
        self,
        pool: KeyPool,
        upstream: Upstream,
        vault: Vault,
        metrics: RequestMetrics | None = None,
    ) -> None:
        """Take the key pool, the provider's client, the vault, what counts."""
        self._metrics = metrics
        self._pool = pool
        self._upstream = upstream
        self._vault = vault
        self._averages: dict[str, OutputAverages] = {}
        self._secrets: dict[tuple[str, bytes], SecretStr] = {}

    async def reserve(
        self, request: Request, max_in_flight: int | None, avoid: frozenset[str] = frozenset()
    ) -> Reserved:
        """Reserve a key for a request, waiting here for a while where there is no room.

        Args:
            request: what needs the key.
            max_in_flight: the automation's own cap on calls in flight.
            avoid: ids of keys to take only when there is no other.

        Raises:
            PyMongoError: MongoDB is away.
        """
        averages = self._averages.setdefault(request.envelope.automation_id, OutputAverages())
        estimated = estimate(request.path, request.body, averages, request.input_tokens)
        patience_until = min(self._pool.now() + PATIENCE_S, request.envelope.received_at + LONGEST_HELD_S)
        ask = Ask(
            request.model,
            estimated.tokens,
            request.deadline,
            avoid,
            patience_until,
            estimated.input_tokens,
            request.user_id,
        )
        reserved = await self._pool.reserve(request.envelope.automation_id, ask, max_in_flight)
        if self._metrics is not None:
            self._metrics.reserved(reserved)
        return reserved

    async def first(self, reserving: Reserving) -> Reservation | None:
        """The first reservation, if there is one at once."""
        done, _ = await asyncio.wait({reserving}, timeout=AT_ONCE_S)
        if not done or reserving.cancelled() or reserving.exception() is not None:
            return None
        reserved = reserving.result()
        return reserved if isinstance(reserved, Reservation) else None

    async def withdraw(self, reserving: Reserving | None) -> None:
        """Give back a first reservation that is not needed."""
        if reserving is None:
            return
        reserving.cancel()
        (reserved,) = await asyncio.gather(reserving, return_exceptions=True)
        if isinstance(reserved, Reservation):
            self._pool.release(reserved)

    async def run(
        self,
        request: Request,
        reserving: Reserving,
        progress: Progress,
        *,
        run: int,
        call_timeout_s: float,
        max_in_flight: int | None,
        chunks: Chunks | None,
        on_call: Callable[[Reservation, int], Awaitable[None]],
        on_attempt: Callable[[AttemptRecord, asyncio.Future[None]], None],
    ) -> Answered | Error | PutOff | Gone:
        """Call the provider until it answers, nothing is left to try, or there is no room for long.

        Args:
            request: what to ask.
            reserving: the first reservation, under way.
            progress: filled in as things happen.
            run: the claim's run.
            call_timeout_s: how long one call may take, in seconds.
            max_in_flight: the automation's own cap on calls in flight.
            chunks: what passes the answer on as it comes, where that is asked for.
            on_call: told of each call before it is made, with its reservation and its number.
            on_attempt: told of each attempt as it ends, with a future that is done when it is settled.

        Raises:
            PyMongoError: MongoDB is away.
        """
        avoid: set[str] = set()
        failure: Failure | None = None
        provider_failures = 0
        reserved = await reserving
        progress.waited_s = self._pool.now() - request.envelope.received_at
        while True:
            if isinstance(reserved, Refusal):
                return refused(reserved, failure)
            if isinstance(reserved, Later):
                return PutOff(max(0.0, reserved.at - self._pool.now()))
            if request.deadline <= self._pool.now():
                self._pool.release(reserved)
                return refused(Refusal(RefusalReason.DEADLINE_PASSED), failure)
            number = run * ATTEMPTS_PER_RUN + len(progress.attempts) + 1
            try:
                answer = await self._call(
                    request, reserved, call_timeout_s, chunks, partial(on_call, reserved, number)
                )
            except VaultError as error:
                # This worker's master keys may be wrong, and the key all right: so it is not blamed.
                log.warning(
                    "key_unreadable", about=request.envelope, key_id=reserved.key.id, reason=str(error)
                )
                if reserved.key.id in avoid:
                    message = "no master key of the worker opens the automation's keys"
                    return Error(ErrorCode.NO_USABLE_KEY, message)
                avoid.add(reserved.key.id)
                answer = None
            if answer is not None:
                record, settled = self._finish(request, reserved, answer, number)
                progress.attempts.append(record)
                progress.upstream_ms += answer.latency_ms
                on_attempt(record, settled)
                if isinstance(answer, Answer):
                    return Answered(answer.raw)
                failure = answer
                # The next reservation, of any worker, must see the cooldown.
                await settled
                avoid.add(reserved.key.id)
                if failure.verdict is CANCELLED:
                    return Gone()
                if failure.verdict.next is Next.STOP:
                    return Error(ErrorCode.PROVIDER_REJECTED, failure.message, provider=failure.provider)
                provider_failures += failure.verdict.next is Next.BACK_OFF
                is_over = failure.verdict.next is Next.GIVE_UP or len(progress.attempts) >= MAX_ATTEMPTS
                if is_over or provider_failures >= MAX_PROVIDER_FAILURES:
                    return Error(ErrorCode.PROVIDER_UNAVAILABLE, failure.message, provider=failure.provider)
                if failure.verdict.next is Next.BACK_OFF:
                    pause_s = back_off_s(provider_failures)
                    await asyncio.sleep(pause_s)
                    progress.backed_off_s += pause_s
            began = time.perf_counter()
            reserved = await self.reserve(request, max_in_flight, frozenset(avoid))
            progress.waited_s += time.perf_counter() - began

    async def _call(
        self,
        request: Request,
        reserved: Reservation,
        call_timeout_s: float,
        chunks: Chunks | None,
        begin: Callable[[], Awaitable[None]],
    ) -> Answer | Failure | None:
        """Make the call; None where the reservation is too old for it."""
        key = reserved.key
        try:
            secret = self._secret(key)
            await begin()
        except BaseException:
            self._pool.release(reserved)
            raise
        if reserved.age_s(time.monotonic()) > STALE_S:
            await self._pool.release(reserved)
            return None
        try:
            return await self._ask(request, key, secret, call_timeout_s, chunks)
        except BaseException:
            # Nobody knows what was used: the estimate stands.
            unknown = Settlement(reserved.second, reserved.tokens, reserved.tokens, reserved.model)
            self._pool.settle(reserved, unknown)
            raise

    async def _ask(
        self, request: Request, key: Key, secret: SecretStr, call_timeout_s: float, chunks: Chunks | None
    ) -> Answer | Failure:
        """Have the provider answer, at once or as a stream."""
        if chunks is not None:
            return await self._stream(request, key.base_url, secret, call_timeout_s, chunks)
        return await self._upstream.call(
            key.base_url,
            secret,
            request.path,
            request.content,
            request_id=request.envelope.request_id,
            timeout_s=call_timeout_s,
        )

    async def _stream(
        self, request: Request, base_url: str, secret: SecretStr, call_timeout_s: float, chunks: Chunks
    ) -> Answer | Failure:
        """Make a call whose answer is passed on as it comes, and stop it when nobody takes it any more."""
        assembly = Assembly(hides_usage=hides_usage(request))
        chunks.begin()
        started = time.perf_counter()
        gone = asyncio.create_task(chunks.until_gone())
        call = asyncio.create_task(
            self._upstream.stream(
                base_url,
                secret,
                request.path,
                streamed_content(request),
                request_id=request.envelope.request_id,
                timeout_s=call_timeout_s,
                assembly=assembly,
                pass_on=chunks.send,
            )
        )
        try:
            await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return call.result()
            gone.result()
        except NobodyWaitsError:
            pass
        finally:
            gone.cancel()
            call.cancel()
            await asyncio.gather(gone, call, return_exceptions=True)
        log.info("stream_cancelled", about=request.envelope)
        return Failure(
            CANCELLED,
            "nobody takes the stream any more",
            round((time.perf_counter() - started) * 1000),
            output_tokens=assembly.output_tokens or 0,
        )

    def _secret(self, key: Key) -> SecretStr:
        identity = (key.id, key.secret.nonce)
        secret = self._secrets.get(identity)
        if secret is None:
            if len(self._secrets) >= MOST_SECRETS:
                del self._secrets[next(iter(self._secrets))]
            secret = self._secrets[identity] = open_secret(self._vault, key.automation_id, key.id, key.secret)
        return secret

    def _finish(
        self, request: Request, reserved: Reservation, answer: Answer | Failure, number: int
    ) -> tuple[AttemptRecord, asyncio.Future[None]]:
        """Say what the attempt was, and settle its reservation."""
        if isinstance(answer, Failure):
            record, settlement = failed(request, reserved, answer, number, self._pool.now())
        else:
            record, settlement = answered(request, reserved, answer, number, self._pool.now())
            if request.model is not None:
                self._learn(request.envelope.automation_id, request.model, record)
        return record, self._pool.settle(reserved, settlement)

    def _learn(self, automation_id: str, model: str, record: AttemptRecord) -> None:
        """Learn from an answer that there is such a model, and how much it says."""
        self._pool.answered(automation_id, model)
        if not record.tokens_estimated:
            averages = self._averages.setdefault(automation_id, OutputAverages())
            averages.learn(model, record.usage.completion_tokens)


def back_off_s(failures: int) -> float:
    """The pause after so many failures, with full jitter (AWS, "Exponential Backoff And Jitter")."""
    return random.uniform(0, min(BACK_OFF_MAX_S, BACK_OFF_S * 2.0 ** (failures - 1)))  # noqa: S311  # no secret

"""One request for a key: read, reserve, write down, lend, answer, acknowledge.

What fails from the answer on hands the delivery back; who gets it next answers with the lease that was
written down, or decides anew.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC

import orjson
import structlog
from pydantic import SecretStr

from contracts.errors import ErrorCode
from infra import deliveries
from infra.deliveries import unless_closed
from infra.errors import VaultError
from infra.mongo import Document, Mongo, PyMongoError
from infra.vault import Sealed, Vault
from workers.keys.checks import ask_for_checks
from workers.keys.key import Key
from workers.keys.leases import LeasedKey, begin_lease, end_lease
from workers.keys.limits import CIRCUIT_FAILURES, SOON_S
from workers.keys.pool import KeyPool, Reservation
from workers.keys.provider_address import address_problem
from workers.keys.registry import open_secret
from workers.keys.selection import Ask, Later, Refusal, RefusalReason
from workers.leasing.automation import Automation, unwilling
from workers.leasing.automation import read as read_automation
from workers.leasing.metrics import LENT, REPEATED, LeaseMetrics
from workers.leasing.reading import Envelope, Invalid, Request, read
from workers.leasing.records import LeaseRecords, is_alive
from workers.leasing.refusals import Failure, answer, refused
from workers.leasing.replies import Delivery, Replies
from workers.leasing.sealing import seal

log = structlog.get_logger()

#: Pause before a delivery is handed back while MongoDB is away, in seconds.
HAND_BACK_AFTER_S = 2.0
INTERNAL_MESSAGE = "Keyway failed inside; the leasing worker's log says how"
OVER = Failure(ErrorCode.DEADLINE_EXCEEDED, "the lease that was granted to this request has ended")
STOPPED = Failure(ErrorCode.NO_USABLE_KEY, "the key was disabled or removed")


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease with what opens the provider; `is_new` where nobody can have it already."""

    lease: Document
    base_url: str
    api_key: SecretStr
    is_new: bool


class LeaseRequestHandler:
    """Does the requests of one leasing worker."""

    def __init__(
        self,
        mongo: Mongo,
        pool: KeyPool,
        vault: Vault,
        replies: Replies,
        metrics: LeaseMetrics | None = None,
    ) -> None:
        """Take the parts of a leasing worker, and what counts."""
        self._metrics = metrics
        self._mongo = mongo
        self._pool = pool
        self._vault = vault
        self._replies = replies
        self._records = LeaseRecords(mongo)

    async def handle(self, message: deliveries.Delivery, automation_id: str) -> None:
        """Do one delivery, whatever comes: it is answered and acknowledged, dead-lettered, or handed back."""
        began = time.monotonic()
        request = read(message, automation_id)
        try:
            decided = await self._decide(request)
            if isinstance(decided, Failure):
                is_dead = isinstance(request, Invalid) or decided.code is ErrorCode.INTERNAL
                reason = f"{decided.code}: {decided.message}" if is_dead else None
                body = answer(request.envelope, decided, time.monotonic() - began)
                await self._refuse(message, request.envelope, decided.code, body, reason)
            else:
                await self._hand_over(*decided)
        except asyncio.CancelledError:
            await unless_closed(message.nack(requeue=True), request.envelope)
            raise
        except Exception as error:
            if isinstance(error, PyMongoError):
                log.warning("request_handed_back", about=request.envelope, error=type(error).__name__)
            else:
                log.exception("request_handed_back", about=request.envelope, error=type(error).__name__)
            await asyncio.sleep(HAND_BACK_AFTER_S)
            await unless_closed(message.nack(requeue=True), request.envelope)
            return
        # Apart from the rest: where it fails, no other answer follows.
        await unless_closed(message.ack(), request.envelope)

    async def _decide(self, request: Request | Invalid) -> tuple[Request, Granted, bytes] | Failure:
        """Lend a key, with the `key.lease.v1` that hands it over; or say why not.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        if isinstance(request, Invalid):
            return Failure(ErrorCode.INVALID_REQUEST, request.reason)
        try:
            granted = await self._lend(request)
            return granted if isinstance(granted, Failure) else (request, granted, _body(request, granted))
        except PyMongoError:
            raise
        except Exception:
            log.exception("request_failed_inside", about=request.envelope)
            return Failure(ErrorCode.INTERNAL, INTERNAL_MESSAGE)

    async def _lend(self, request: Request) -> Granted | Failure:
        automation_id = request.envelope.automation_id
        gone = {"_id": automation_id, "enabled": False}
        document = await self._mongo.automations.find_one({"_id": automation_id}, {"held": 0}) or gone
        automation = read_automation(document)
        if isinstance(automation, Failure):
            return automation
        return unwilling(automation) or await self._again(request) or await self._grant(request, automation)

    async def _again(self, request: Request) -> Granted | Failure | None:
        """The lease that this very request has got already, as long as it lives."""
        lease = await self._records.find(request, self._pool.now())
        if lease is None:
            return None
        if not is_alive(lease, self._pool.now()):
            return OVER
        key = await self._mongo.keys.find_one({"_id": lease["key_id"]}, {"secret": 1, "base_url": 1})
        if key is None or lease["status"] == "revoked":
            return STOPPED
        # Its worker may have died before the lease was counted.
        if lease["status"] == "open" and not await begin_lease(self._mongo, LeasedKey.from_document(lease)):
            return STOPPED
        try:
            secret = Sealed.from_document(key["secret"])
            api_key = open_secret(self._vault, lease["automation_id"], lease["key_id"], secret)
        except VaultError as error:
            return _unreadable(request, lease["key_id"], error)
        return Granted(lease, key["base_url"], api_key, is_new=False)

    async def _grant(self, request: Request, automation: Automation) -> Granted | Failure:
        """Reserve a key and lend it."""
        fit = await self._reserve(request, automation.max_in_flight)
        if isinstance(fit, Failure):
            return fit
        reservation, api_key = fit
        key = reservation.key
        try:
            lease = await self._records.open(request, key, reservation.tokens)
        except BaseException:
            self._pool.release(reservation)
            raise
        if lease is None:
            self._pool.release(reservation)
            return await self._again(request) or Failure(ErrorCode.INTERNAL, INTERNAL_MESSAGE)
        if not await self._pool.lend(reservation, LeasedKey.from_document(lease)):
            await self._records.close(lease)
            return STOPPED
        return Granted(lease, key.base_url, api_key, is_new=True)

    async def _reserve(
        self, request: Request, max_in_flight: int | None
    ) -> tuple[Reservation, SecretStr] | Failure:
        """Reserve the best key that may be lent, waiting for a while where there is no room."""
        automation_id = request.envelope.automation_id
        deadline = self._pool.now() + request.patience_s
        avoid: set[str] = set()
        while True:
            ask = Ask(request.model, request.tokens, deadline, frozenset(avoid))
            reserved = await self._pool.reserve(automation_id, ask, max_in_flight)
            if isinstance(reserved, Refusal):
                return refused(reserved)
            if isinstance(reserved, Later):
                return refused(Refusal(RefusalReason.NO_CAPACITY, reserved.at))
            fit = self._open(request, reserved.key)
            if isinstance(fit, SecretStr):
                return reserved, fit
            self._pool.release(reserved)
            if fit.code is ErrorCode.NO_USABLE_KEY:
                # The prober stops it, and tells an operator why.
                await ask_for_checks(self._mongo, [reserved.key.id])
            if reserved.key.id in avoid:
                return fit
            avoid.add(reserved.key.id)
            # An operator may just have added another.
            self._pool.invalidate(automation_id)

    def _open(self, request: Request, key: Key) -> SecretStr | Failure:
        """A key's secret, or why it is not lent."""
        if key.failures_in_a_row >= CIRCUIT_FAILURES:
            # It is tried with one call at a time, and whoever leases it may not call for long.
            message = "the key has failed, and is still to show that it works"
            return Failure(ErrorCode.PROVIDER_UNAVAILABLE, message, self._pool.now() + SOON_S)
        try:
            secret = open_secret(self._vault, key.automation_id, key.id, key.secret)
        except VaultError as error:
            return _unreadable(request, key.id, error)
        if (problem := address_problem(key.base_url)) is not None:
            log.warning("key_unusable", about=request.envelope, key_id=key.id, reason=problem)
            return Failure(ErrorCode.NO_USABLE_KEY, f"the key's base URL is wrong: {problem}")
        return secret

    async def _hand_over(self, request: Request, granted: Granted, body: bytes) -> None:
        lease = granted.lease
        ttl_s = lease["expires_at"].timestamp() - self._pool.now()
        delivery = await self._replies.lease(request.envelope, body, max(ttl_s, 0.001))
        if delivery is Delivery.UNDELIVERED and granted.is_new:
            await self._records.close(lease)
            await end_lease(self._mongo, LeasedKey.from_document(lease), used=0)
        outcome = delivery.value if delivery is Delivery.UNDELIVERED else LENT if granted.is_new else REPEATED
        self._count(lease["automation_id"], outcome)
        log.info(
            "lease_answered",
            about=request.envelope,
            lease_id=lease["_id"],
            key_id=lease["key_id"],
            delivery=delivery,
            is_sealed=request.recipient is not None,
            is_new=granted.is_new,
        )

    async def _refuse(
        self,
        message: deliveries.Delivery,
        envelope: Envelope,
        code: ErrorCode,
        body: bytes,
        reason: str | None,
    ) -> None:
        """Answer where the request says to whom; what has a reason to be dead-lettered is so before.

        A dead letter that can't be written keeps nobody from the answer.
        """
        if reason is None:
            log.info("lease_refused", about=envelope, code=code)
        else:
            log.warning("lease_request_refused", about=envelope, reason=reason)
            try:
                await self._replies.dead_letter(message, envelope, reason)
            except Exception:
                log.exception("dead_letter_not_written", about=envelope)
        await self._replies.refusal(envelope, body)
        self._count(envelope.automation_id, code.value)

    def _count(self, automation_id: str, outcome: str) -> None:
        """Count what has its reply; no failure of that changes how it ended."""
        if self._metrics is None:
            return
        try:
            self._metrics.ended(automation_id, outcome)
        except Exception:
            log.exception("request_not_counted")


def _unreadable(request: Request, key_id: str, error: VaultError) -> Failure:
    # This worker's master keys may be wrong, and the key all right: so it is not blamed.
    log.warning("key_unreadable", about=request.envelope, key_id=key_id, reason=str(error))
    return Failure(ErrorCode.INTERNAL, "no master key of the leasing worker opens the automation's keys")


def _body(request: Request, granted: Granted) -> bytes:
    """The `key.lease.v1`, with the key in the clear where no recipient's key was given."""
    lease = granted.lease
    if request.recipient is None:
        key = {"api_key": granted.api_key.get_secret_value()}
    else:
        key = {"sealed_api_key": seal(granted.api_key, request.recipient, lease["_id"])}
    return orjson.dumps(
        {
            "lease_id": lease["_id"],
            "key_alias": lease["key_alias"],
            **key,
            "base_url": granted.base_url,
            "expires_at": lease["expires_at"].astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "requests": 1,
            "tokens": lease["tokens"],
        }
    )

"""Direct keys: an API key that is lent for a while, to call the provider oneself."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Self

from aio_pika import DeliveryMode, Message
from pydantic import SecretStr, ValidationError

from contracts import names
from contracts.errors import InvalidReplyError, KeywayError, ReplyTimeoutError
from contracts.messages import KeyLease, KeyLeaseRequest, Outcome, UsageReported
from contracts.reply_channel import Destination
from contracts.request_message import ANSWER_GRACE_S, first_problem, raise_if_failed, read_result

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from aiormq.abc import DeliveredMessage

    from contracts.request_reply import RequestReply
    from contracts.sealing import Recipient

#: How long the broker may take to confirm a report, in seconds.
REPORT_TIMEOUT_S = 60.0


class Lease:
    """A key that is lent until `expires_at`; after the `async with` block the lease gives it no more.

    What is used of it is to be reported; a lease of which nothing is reported by its end is charged at the
    estimate that it was asked for with.

    Attributes:
        lease_id: its id.
        key_alias: the key's name at Keyway.
        base_url: where the provider's API is.
        expires_at: when the key is to be used no more.
        requests: how many calls it is for.
        tokens: how many tokens it is for.
    """

    def __init__(
        self, lease: KeyLease, api_key: SecretStr, requests: RequestReply, automation_id: str
    ) -> None:
        self.lease_id: str = lease.lease_id
        self.key_alias: str = lease.key_alias
        self.base_url: str = lease.base_url
        self.expires_at: datetime = lease.expires_at
        self.requests: int = lease.requests
        self.tokens: int = lease.tokens
        self._api_key: SecretStr | None = api_key
        self._requests = requests
        self._destination = Destination.event(names.USAGE_REPORTED, automation_id)

    @property
    def api_key(self) -> SecretStr:
        """The provider's API key.

        Raises:
            KeywayError: the lease was closed.
        """
        if self._api_key is None:
            raise KeywayError(f"lease {self.lease_id} is closed")
        return self._api_key

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Forget the key."""
        self._api_key = None

    async def report(
        self,
        *,
        model: str,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int = 0,
        reasoning_tokens: int = 0,
        outcome: Outcome | str = Outcome.OK,
        report_id: str | None = None,
    ) -> str:
        """Report what a call with the key used; possible after the lease's block too.

        Args:
            model: what was called.
            prompt_tokens: tokens of the prompt.
            completion_tokens: tokens of the answer.
            cached_tokens: those of the prompt that the provider had cached.
            reasoning_tokens: those of the answer that were reasoning.
            outcome: how the call ended.
            report_id: the report's own id; the same one twice counts once.

        Returns:
            The report's id, once the broker has the report safe.

        Raises:
            PublishError: the broker did not take it.
            ReplyTimeoutError: the broker did not confirm in time; report again with the same id.
            ClientClosedError: the client was closed.
            ValueError: it does not follow the contract.
        """
        report = UsageReported(
            lease_id=self.lease_id,
            report_id=report_id or str(uuid.uuid4()),
            model=model,
            outcome=Outcome(outcome),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            cached_tokens=cached_tokens,
            reasoning_tokens=reasoning_tokens,
        )
        message = Message(
            report.model_dump_json().encode(),
            type=names.USAGE_REPORTED,
            content_type="application/json",
            message_id=report.report_id,
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        try:
            async with asyncio.timeout(REPORT_TIMEOUT_S):
                await self._requests.tell(message, self._destination)
        except TimeoutError:
            raise ReplyTimeoutError(report.report_id, REPORT_TIMEOUT_S) from None
        return report.report_id


async def request_lease(
    requests: RequestReply,
    automation_id: str,
    *,
    model: str | None,
    estimated_tokens: int,
    ttl_s: int,
    timeout: float,  # noqa: ASYNC109  # part of the message, not only of the wait
) -> Lease:
    """Ask for a key and wait for it; sealed to a new key of ours where `cryptography` is installed.

    Raises:
        GenerationError: there is none.
        PublishError: the broker did not take the request.
        ReplyTimeoutError: no answer came.
        InvalidReplyError: the answer does not follow the contract, or can't be unsealed.
        ClientClosedError: the client was closed.
        ValueError: the request does not follow the contract.
    """
    recipient = _new_recipient()
    request_id = str(uuid.uuid4())
    request = KeyLeaseRequest(
        model=model,
        estimated_tokens=estimated_tokens,
        ttl_s=ttl_s,
        recipient_public_key=recipient and recipient.public_key,
    )
    message = Message(
        request.model_dump_json(exclude_defaults=True).encode(),
        type=names.KEY_LEASE_REQUEST,
        content_type="application/json",
        message_id=request_id,
        correlation_id=request_id,
        reply_to=names.DIRECT_REPLY_TO,
        expiration=timeout,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
    try:
        async with asyncio.timeout(timeout + ANSWER_GRACE_S):
            answer = await requests.ask(message, Destination.leases(automation_id))
    except TimeoutError:
        raise ReplyTimeoutError(request_id, timeout) from None
    lease = _read_lease(answer, request_id)
    return Lease(lease, _api_key(lease, recipient, request_id), requests, automation_id)


def _new_recipient() -> Recipient | None:
    try:
        from contracts.sealing import Recipient  # noqa: PLC0415  # of the extra `direct`
    except ImportError:
        return None
    return Recipient()


def _read_lease(answer: DeliveredMessage, request_id: str) -> KeyLease:
    if answer.header.properties.message_type != names.KEY_LEASE:
        raise_if_failed(read_result(answer))
        raise InvalidReplyError(request_id, "it is a result and no lease", answer.body)
    try:
        return KeyLease.model_validate_json(answer.body)
    except ValidationError as error:
        raise InvalidReplyError(request_id, first_problem(error), b"") from None


def _api_key(lease: KeyLease, recipient: Recipient | None, request_id: str) -> SecretStr:
    if lease.api_key is not None:
        return lease.api_key
    if recipient is None or lease.sealed_api_key is None:
        raise InvalidReplyError(request_id, "there is no API key in it", b"")
    try:
        return SecretStr(recipient.open(lease.sealed_api_key, lease.lease_id))
    except ValueError as error:
        raise InvalidReplyError(request_id, str(error), b"") from None

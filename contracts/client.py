"""The client that an automation uses: publish a request, get its result.

async with Keyway("amqp://billing-bot:TOKEN@localhost:5672/keyway") as keyway:
    result = await keyway.generate("/chat/completions", model="gpt-4o-mini",
                                   messages=[{"role": "user", "content": "hello"}])
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, Self

from yarl import URL

from contracts import names
from contracts.connection import BrokerConnection
from contracts.durable_replies import collect, declare_reply_queue
from contracts.errors import ReplyTimeoutError
from contracts.heartbeats import Heartbeats
from contracts.leases import request_lease
from contracts.many import in_order
from contracts.own_channels import OwnChannels
from contracts.reply_channel import Destination
from contracts.request_message import ANSWER_GRACE_S, raise_if_failed, read_result, request_message
from contracts.request_reply import RequestReply
from contracts.stream import GenerationStream
from contracts.streamed_request import StreamedRequest
from contracts.trace_context import trace_headers
from contracts.under_way import UnderWay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
    from types import TracebackType

    from contracts.errors import KeywayError
    from contracts.leases import Lease
    from contracts.many import Progress
    from contracts.messages import GenerationResult


class Keyway:
    """A connection to Keyway for one automation; use it with `async with`, from one event loop.

    Any number of calls may be under way at once. When the connection is lost, it comes back by itself, and
    requests that wait are asked again under the same id: what was done is not done twice.

    A request's body is given by keywords, or as a mapping where a field of it has the name of an argument
    (`user`, `timeout`, `metadata`), or as both.

    Args:
        url: AMQP address with the automation's id as user, its service token as password, and the vhost.
        automation_id: whose requests these are, where the user is not the automation itself.
        version: what heartbeats say is running here; by default the version of this package.
        heartbeat_s: seconds between two heartbeats; 0 for none.
    """

    def __init__(
        self,
        url: str,
        *,
        automation_id: str | None = None,
        version: str | None = None,
        heartbeat_s: float = 30.0,
    ) -> None:
        address = URL(url)
        # An id has no `.`: what follows one is of the second user that a rotation makes.
        self._automation_id = automation_id or (address.user or "").removesuffix(names.next_user(""))
        if not names.is_automation_id(self._automation_id):
            raise ValueError(
                f"{self._automation_id!r} is not an automation's id; it is the user in the address"
            )
        name = f"keyway client {self._automation_id}"
        self._connection = BrokerConnection(address, users_of(address.user, self._automation_id), name)
        self._lane = Destination.lane(self._automation_id)
        self._own_channels = OwnChannels(self._connection)
        self._requests = RequestReply(self._connection, self._own_channels)
        self._declared: set[str] = set()
        self._declaring = asyncio.Lock()
        self._under_way = UnderWay()
        self._heartbeats = Heartbeats(
            self._connection, self._automation_id, self._under_way, version=version, interval_s=heartbeat_s
        )

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            PublishError: the broker can't be reached or refuses the user or token.
        """
        await self._connection.open()
        self._heartbeats.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect; calls that still wait raise `ClientClosedError`."""
        await self._heartbeats.stop()
        await self._own_channels.close()
        await self._connection.close()

    async def generate(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        /,
        *,
        user: str | None = None,
        timeout: float = 60.0,  # noqa: ASYNC109  # part of the request, not only of the wait
        request_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
        **fields: Any,
    ) -> GenerationResult:
        """Ask for one generation and wait for its result.

        Args:
            path: the provider's endpoint, such as `/chat/completions`.
            body: the provider's request body, or a part of it.
            user: whom the usage is booked on.
            timeout: how long the whole may take, in seconds; no call to the provider starts after it.
            request_id: the idempotency key; asked again with the same one, the provider is not called again.
            metadata: kept with nothing and sent nowhere but to the workers.
            traceparent: the W3C trace to continue; by default OpenTelemetry's current one.
            **fields: the provider's request body, such as `model` and `messages`.

        Returns:
            The result, with the provider's JSON in `response`.

        Raises:
            GenerationError: the request failed; the subclass says how, `retryable` and `retry_at` what to do.
            PublishError: the broker did not take the request.
            ReplyTimeoutError: no answer came.
            InvalidReplyError: the answer does not follow the contract.
            ClientClosedError: the client was closed.
            ValueError: the request does not follow the contract.
        """
        whole = {**(body or {}), **fields}
        if whole.get("stream"):
            raise ValueError("generate() gives one result; for stream=True there is stream()")
        request_id = request_id or str(uuid.uuid4())
        message = request_message(
            request_id,
            path,
            whole,
            user=user,
            timeout=timeout,
            metadata=metadata,
            reply_to=names.DIRECT_REPLY_TO,
            trace=trace_headers(traceparent),
        )
        with self._under_way.hold(request_id):
            try:
                async with asyncio.timeout(timeout + ANSWER_GRACE_S):
                    answer = await self._requests.ask(message, self._lane)
            except TimeoutError:
                raise ReplyTimeoutError(request_id, timeout) from None
        result = read_result(answer)
        raise_if_failed(result)
        return result

    def stream(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        /,
        *,
        user: str | None = None,
        timeout: float = 60.0,
        request_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
        **fields: Any,
    ) -> GenerationStream:
        """Ask for one generation, and get the provider's chunks as they come.

        Args:
            path: as for `generate`.
            body: as for `generate`; `stream` is set to true.
            user: as for `generate`.
            timeout: seconds; no call to the provider starts after it, and no chunk is waited for longer.
            request_id: as for `generate`.
            metadata: as for `generate`.
            traceparent: as for `generate`.
            **fields: as for `generate`.

        Returns:
            The stream; the request is sent when it is entered or first iterated.

        Raises:
            ValueError: the request does not follow the contract.
        """
        request_id = request_id or str(uuid.uuid4())
        message = request_message(
            request_id,
            path,
            {**(body or {}), **fields, "stream": True},
            user=user,
            timeout=timeout,
            metadata=metadata,
            reply_to=names.DIRECT_REPLY_TO,
            trace=trace_headers(traceparent),
        )
        request = StreamedRequest(message, self._lane, self._own_channels)
        return GenerationStream(request_id, request, self._under_way, timeout=timeout)

    async def submit(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        /,
        *,
        name: str,
        user: str | None = None,
        timeout: float = 600.0,  # noqa: ASYNC109  # part of the request, not only of the wait
        request_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
        **fields: Any,
    ) -> str:
        """Ask for one generation whose result is kept until it is collected with `results(name)`.

        Args:
            path: as for `generate`.
            body: as for `generate`; `stream` is not possible.
            name: which of the automation's durable reply queues the result goes to; it is made if need be.
            user: as for `generate`.
            timeout: how long the generation may take, in seconds, at most a day.
            request_id: as for `generate`.
            metadata: as for `generate`.
            traceparent: as for `generate`.
            **fields: as for `generate`.

        Returns:
            The request's id, once the broker has the request safe.

        Raises:
            PublishError: the broker did not take the request.
            ReplyTimeoutError: the broker did not confirm in time; it may have the request.
            ClientClosedError: the client was closed.
            ValueError: the request or the name does not follow the contract.
        """
        whole = {**(body or {}), **fields}
        if whole.get("stream"):
            raise ValueError("a result that is kept can't be streamed")
        reply_queue = names.reply_queue(self._automation_id, name)
        request_id = request_id or str(uuid.uuid4())
        message = request_message(
            request_id,
            path,
            whole,
            user=user,
            timeout=timeout,
            metadata=metadata,
            reply_to=reply_queue,
            trace=trace_headers(traceparent),
        )
        try:
            async with asyncio.timeout(timeout):
                async with self._declaring:
                    if reply_queue not in self._declared:
                        await declare_reply_queue(self._connection, reply_queue)
                        self._declared.add(reply_queue)
                await self._requests.tell(message, self._lane)
        except TimeoutError:
            raise ReplyTimeoutError(request_id, timeout) from None
        return request_id

    def results(self, name: str, *, idle_s: float | None = None) -> AsyncGenerator[GenerationResult, None]:
        """Collect what `submit` asked for, from this process or another, failed results included.

        A result is acknowledged when the next one is asked for: a process that dies over one gets it again,
        so the same result may come twice.

        Args:
            name: the durable reply queue's name.
            idle_s: end after so many seconds without a result; None: wait for ever.

        Yields:
            The results, in the order in which they came.

        Raises:
            InvalidReplyError: a message is not a result; it is taken off the queue.
            PublishError: the queue is there with other settings.
            ClientClosedError: the client was closed.
            ValueError: the name is not a valid one.
        """
        return collect(self._connection, names.reply_queue(self._automation_id, name), idle_s)

    async def generate_many(
        self,
        path: str,
        bodies: Iterable[Mapping[str, Any]],
        /,
        *,
        concurrency: int = 64,
        on_progress: Callable[[Progress], None] | None = None,
        user: str | None = None,
        timeout: float = 60.0,  # noqa: ASYNC109  # of each request
    ) -> list[GenerationResult | KeywayError]:
        """Ask for many generations, some at a time.

        Args:
            path: the provider's endpoint.
            bodies: the provider's request bodies; taken as they are needed.
            concurrency: how many are under way at once, at most.
            on_progress: called after each.
            user: whom the usage is booked on.
            timeout: how long each may take, in seconds.

        Returns:
            For each body, in their order, the result, or the error that `generate` would raise.

        Raises:
            ValueError: a request does not follow the contract; those under way are given up.
        """

        async def ask(body: Mapping[str, Any]) -> GenerationResult:
            return await self.generate(path, body, user=user, timeout=timeout)

        return await in_order(ask, bodies, concurrency=concurrency, on_progress=on_progress)

    async def lease(
        self,
        model: str | None = None,
        *,
        estimated_tokens: int = 2000,
        ttl_s: int = 300,
        timeout: float = 60.0,  # noqa: ASYNC109  # the broker drops the request after it, too
    ) -> Lease:
        """Borrow an API key, to call the provider directly.

        Args:
            model: what is going to be called.
            estimated_tokens: what it is going to use; charged if nothing is reported.
            ttl_s: for how long, in seconds.
            timeout: how long to wait for a key, in seconds.

        Returns:
            The lease; use it with `async with`, and report what was used.

        Raises:
            GenerationError: there is no key; the subclass says why.
            PublishError: the broker did not take the request.
            ReplyTimeoutError: no answer came.
            InvalidReplyError: the answer does not follow the contract, or can't be unsealed.
            ClientClosedError: the client was closed.
            ValueError: the request does not follow the contract.
        """
        return await request_lease(
            self._requests,
            self._automation_id,
            model=model,
            estimated_tokens=estimated_tokens,
            ttl_s=ttl_s,
            timeout=timeout,
        )


def users_of(user: str | None, automation_id: str) -> tuple[str | None, ...]:
    """The RabbitMQ users that a token may belong to, the one in the address first.

    While a token is rotated an automation has two users, and which of them keeps the token changes.
    """
    both = (automation_id, names.next_user(automation_id))
    if user not in both:
        return (user,)
    return (user, *(other for other in both if other != user))

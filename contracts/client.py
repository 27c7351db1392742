"""The client that an automation uses: publish a request, get its result.

async with Keyway("amqp://billing-bot:TOKEN@localhost:5672/keyway") as keyway:
    result = await keyway.generate("/chat/completions", model="gpt-4o-mini",
                                   messages=[{"role": "user", "content": "hello"}])
"""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from aio_pika import DeliveryMode, Message, RobustConnection
from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelInvalidStateError, DeliveryError
from pamqp.commands import Basic
from pydantic import ValidationError
from yarl import URL

from contracts import names
from contracts.errors import PublishError, ReplyTimeoutError, error_class
from contracts.messages import GenerationRequest, GenerationResult

if TYPE_CHECKING:
    from types import TracebackType

    from aio_pika.abc import AbstractIncomingMessage, AbstractRobustChannel

#: How long to wait for the broker at the start, and for a publish to be confirmed, in seconds.
BROKER_TIMEOUT_S = 15.0
#: An answer that says that the deadline passed may come this much after it, in seconds.
ANSWER_GRACE_S = 5.0
RETRY_S = 0.5


class Keyway:
    """A connection to Keyway for one automation; use it with `async with`, from one event loop.

    Any number of `generate` calls may be under way at once. When the connection is lost, it comes back by
    itself, and requests that wait are asked again under the same id: what was done is not done twice.

    Args:
        url: AMQP address with the automation's id as user, its service token as password, and the vhost.
        automation_id: whose requests these are, where the user is not the automation itself.
    """

    def __init__(self, url: str, *, automation_id: str | None = None) -> None:
        self._url = URL(url)
        self._automation_id = automation_id or self._url.user or ""
        if not names.is_automation_id(self._automation_id):
            raise ValueError(
                f"{self._automation_id!r} is not an automation's id; it is the user in the address"
            )
        self._connection: RobustConnection | None = None
        self._channel: AbstractRobustChannel | None = None
        self._pending: dict[str, asyncio.Future[GenerationResult]] = {}
        self._reopened = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            PublishError: the broker can't be reached or refuses the user or token.
        """
        name = f"keyway client {self._automation_id}"
        url = self._url.with_query({"heartbeat": "10", "name": name, "reconnect_interval": str(RETRY_S)})
        connection = self._connection = RobustConnection(url)
        try:
            await connection.connect(timeout=BROKER_TIMEOUT_S)
        except (AMQPError, OSError) as error:
            await connection.close()
            where = f"{self._url.host}:{self._url.port or 5672}"
            raise PublishError(f"can't connect to RabbitMQ at {where}: {type(error).__name__}") from None
        await self._open_channel(connection)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect; calls that still wait are cancelled."""
        for future in self._pending.values():
            future.cancel()
        if self._connection is not None:
            await self._connection.close()

    async def generate(
        self,
        path: str,
        *,
        user: str | None = None,
        timeout: float = 60.0,  # noqa: ASYNC109  # part of the request, not only of the wait
        request_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        **body: Any,
    ) -> GenerationResult:
        """Ask for one generation and wait for its result.

        Args:
            path: the provider's endpoint, such as `/chat/completions`.
            user: whom the usage is booked on.
            timeout: how long the whole may take, in seconds; no call to the provider starts after it.
            request_id: the idempotency key; asked again with the same one, the provider is not called again.
            metadata: kept with nothing and sent nowhere but to the workers.
            **body: the provider's request body, such as `model` and `messages`.

        Returns:
            The result, with the provider's JSON in `response`.

        Raises:
            GenerationError: the request failed; the subclass says how, `retryable` and `retry_at` what to do.
            PublishError: the broker did not take the request.
            ReplyTimeoutError: no answer came.
            ValueError: the request does not follow the contract.
        """
        request_id = request_id or str(uuid.uuid4())
        deadline = datetime.now(UTC) + timedelta(seconds=timeout)
        request = GenerationRequest.model_validate(
            {"path": path, "body": body, "user_id": user, "deadline": deadline, "metadata": metadata or {}}
        )
        message = Message(
            request.model_dump_json(exclude_defaults=True).encode(),
            type=names.GENERATION_REQUEST,
            content_type="application/json",
            message_id=request_id,
            correlation_id=request_id,
            reply_to=names.DIRECT_REPLY_TO,
            delivery_mode=DeliveryMode.PERSISTENT,
            headers={names.PUBLISHED_AT_HEADER: int(time.time() * 1000)},
        )
        if request_id in self._pending:
            raise ValueError(f"request {request_id} is under way already")
        reply: asyncio.Future[GenerationResult] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = reply
        try:
            async with asyncio.timeout(timeout + ANSWER_GRACE_S):
                result = await self._ask(message, reply)
        except TimeoutError:
            raise ReplyTimeoutError(request_id, timeout) from None
        finally:
            del self._pending[request_id]
        if result.error is not None:
            error = result.error
            raise error_class(error.code)(error.message, retry_at=error.retry_at, result=result)
        return result

    async def _ask(self, message: Message, reply: asyncio.Future[GenerationResult]) -> GenerationResult:
        """Publish and wait; publish again when the channel that the answer would have come on is gone."""
        while not reply.done():
            reopened = self._reopened
            await self._publish(message)
            waiting = asyncio.ensure_future(reopened.wait())
            try:
                await asyncio.wait((reply, waiting), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
        return reply.result()

    async def _publish(self, message: Message) -> None:
        """Publish until the broker confirms.

        Raises:
            PublishError: it refuses.
        """
        if self._channel is None:
            raise PublishError("not connected; use `async with Keyway(…)`")
        while True:
            try:
                exchange = await self._channel.get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
                await exchange.publish(message, self._automation_id, mandatory=True, timeout=BROKER_TIMEOUT_S)
            except DeliveryError as error:
                if isinstance(error.frame, Basic.Nack):
                    raise PublishError(
                        f"the queue of {self._automation_id} is full; try again later"
                    ) from None
                raise PublishError(f"there is no automation {self._automation_id}") from None
            except ChannelAccessRefused:
                raise PublishError(f"this user may not publish as {self._automation_id}") from None
            except (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError):
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _open_channel(self, connection: RobustConnection) -> None:
        """One channel for requests and answers, as direct reply-to wants it."""
        self._channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        replies = await self._channel.get_queue(names.DIRECT_REPLY_TO)
        await replies.consume(self._on_reply, no_ack=True)
        self._channel.reopen_callbacks.add(self._on_reopened)

    def _on_reopened(self, *_: object) -> None:
        reopened, self._reopened = self._reopened, asyncio.Event()
        reopened.set()

    async def _on_reply(self, message: AbstractIncomingMessage) -> None:
        reply = self._pending.get(message.correlation_id or "")
        if reply is None or reply.done() or message.type != names.GENERATION_RESULT:
            return
        try:
            reply.set_result(GenerationResult.model_validate_json(message.body))
        except ValidationError as error:
            reply.set_exception(error)

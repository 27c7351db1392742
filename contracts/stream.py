"""A streamed answer, chunk by chunk."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from contracts import names
from contracts.chunk_order import ChunkOrder
from contracts.errors import BrokenStreamError, InvalidReplyError, ReplyTimeoutError
from contracts.messages import GenerationChunk
from contracts.request_message import ANSWER_GRACE_S, first_problem, raise_if_failed, read_result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from aiormq.abc import DeliveredMessage

    from contracts.messages import GenerationResult
    from contracts.streamed_request import StreamedRequest
    from contracts.under_way import UnderWay


class GenerationStream:
    """The chunks of one answer, as an async iterator; use it with `async with`, which closes it.

    A stream that is closed, cancelled or dropped before its end stops the call to the provider; what was
    produced until then is booked. After a worker's death the answer begins again: the first chunk of the new
    beginning has `restarted` set, and what came before it is to be forgotten.

    Iterating raises:
        GenerationError: the request failed; the subclass says how.
        PublishError: the broker did not take the request.
        ReplyTimeoutError: neither a chunk nor the result came for as long as the timeout.
        BrokenStreamError: chunks are missing.
        SlowConsumerError: too many chunks came that were not taken.
        InvalidReplyError: a message does not follow the contract.
        ClientClosedError: the client was closed.

    Attributes:
        request_id: the request's id.
        result: the result that followed the last chunk; None before.
    """

    def __init__(
        self, request_id: str, request: StreamedRequest, under_way: UnderWay, *, timeout: float
    ) -> None:
        self.request_id = request_id
        self.result: GenerationResult | None = None
        self._request = request
        self._under_way = under_way
        self._timeout = timeout
        self._order = ChunkOrder()
        #: At which asking the last chunk came.
        self._last_asked = 0
        self._dropped: weakref.finalize[..., GenerationStream] | None = None
        self._is_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationChunk:
        """The next chunk."""
        if self._is_ended:
            raise StopAsyncIteration
        async with self._ended_by_errors():
            await self._begin()
            while (chunk := self._read(await self._request.next())) is None:
                pass
            return chunk

    async def __aenter__(self) -> Self:
        """Send the request.

        Raises:
            PublishError: the broker did not take it.
        """
        async with self._ended_by_errors():
            await self._begin()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the stream."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the stream; if it is unfinished, its worker hears of it."""
        if closing := self._end(in_order=False):
            await asyncio.shield(closing)

    def cancel(self) -> None:
        """Close the stream without waiting for the broker to hear of it."""
        self._end(in_order=False)

    @asynccontextmanager
    async def _ended_by_errors(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout + ANSWER_GRACE_S):
                yield
        except TimeoutError:
            self._end(in_order=False)
            raise ReplyTimeoutError(self.request_id, self._timeout) from None
        except BaseException:
            self._end(in_order=False)
            raise

    async def _begin(self) -> None:
        if self._dropped is not None:
            return
        self._under_way.add(self.request_id)
        loop = asyncio.get_running_loop()
        self._dropped = weakref.finalize(
            self, _abandon, loop, self._request, self._under_way, self.request_id
        )
        self._dropped.atexit = False
        await self._request.publish()

    def _read(self, message: DeliveredMessage) -> GenerationChunk | None:
        """The chunk that a message carries, if it is to be passed on; the result ends the stream."""
        if message.header.properties.message_type == names.GENERATION_CHUNK:
            chunk = self._chunk(message)
            self._last_asked = self._request.asked
            return chunk if self._order.admits(chunk) else None
        self.result = read_result(message)
        self._end(in_order=True)
        raise_if_failed(self.result)
        if self._order.expected and self._last_asked < self._request.asked:
            raise BrokenStreamError(
                f"request {self.request_id} ended while the connection was away, and its chunks are gone"
            )
        raise StopAsyncIteration

    def _chunk(self, message: DeliveredMessage) -> GenerationChunk:
        try:
            return GenerationChunk.model_validate_json(message.body)
        except ValidationError as error:
            raise InvalidReplyError(self.request_id, first_problem(error), message.body) from None

    def _end(self, *, in_order: bool) -> asyncio.Task[None] | None:
        if self._is_ended:
            return None
        self._is_ended = True
        if self._dropped is None:
            return None
        self._dropped.detach()
        self._under_way.remove(self.request_id)
        if in_order:
            self._request.end()
            return None
        return self._request.abandon()


def _abandon(
    loop: asyncio.AbstractEventLoop, request: StreamedRequest, under_way: UnderWay, request_id: str
) -> None:
    """Close a stream that was dropped unfinished; it may be collected in any thread."""

    def abandon() -> None:
        under_way.remove(request_id)
        request.abandon()

    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(abandon)

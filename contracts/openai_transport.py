"""The OpenAI SDK through the queue: an HTTP client whose requests become messages (extra `openai`).

    url = "amqp://billing-bot:TOKEN@localhost:5672/keyway"
    client = AsyncOpenAI(api_key="-", http_client=keyway_http_client(url))

A program, or a library that stands on the SDK, runs as it is otherwise. Keys, limits, waiting and retries are
Keyway's; `api_key` is not used.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx2

from contracts.client import Keyway
from contracts.errors import (
    DeadlineExceededError,
    GenerationError,
    KeywayError,
    PublishError,
    ReplyTimeoutError,
)
from contracts.openai_http import (
    Call,
    HttpAnswer,
    bad_request,
    end,
    event,
    failed,
    failed_event,
    read_call,
    stream_begun,
    succeeded,
    without_chunks,
)
from contracts.openai_retries import RETRY_COUNT, left_open, request_id_of
from contracts.sync_client import SyncKeyway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from contracts.messages import GenerationChunk, GenerationResult, Path
    from contracts.stream import GenerationStream
    from contracts.sync_client import SyncGenerationStream


def keyway_http_client(keyway: str | Keyway) -> httpx2.AsyncClient:
    """An HTTP client for `openai.AsyncOpenAI(api_key="-", http_client=…)`.

    Args:
        keyway: AMQP address with the automation's id as user, its service token as password, and the vhost.
            It is connected to at the first request, and left when the client is closed. Or a client of
            Keyway that is open, and stays so.

    Raises:
        ValueError: the user in the address is not an automation's id.
    """
    return httpx2.AsyncClient(transport=KeywayTransport(keyway))


def sync_keyway_http_client(keyway: str | SyncKeyway) -> httpx2.Client:
    """An HTTP client for `openai.OpenAI(api_key="-", http_client=…)`.

    Args:
        keyway: as for `keyway_http_client`.

    Raises:
        ValueError: the user in the address is not an automation's id.
    """
    return httpx2.Client(transport=SyncKeywayTransport(keyway))


class KeywayTransport(httpx2.AsyncBaseTransport):
    """Sends requests to the provider's endpoints through the queue; used from one event loop.

    The HTTP client's read timeout becomes the request's deadline. A request may name its id in the header
    `Idempotency-Key`, and whom it is booked on in `X-Keyway-User`.
    """

    def __init__(self, keyway: str | Keyway) -> None:
        """Take an address, or an open client."""
        self._keyway = keyway
        self._opening: asyncio.Task[Keyway] | None = None
        if isinstance(keyway, str):
            Keyway(keyway)  # refuses a wrong address now, not at the first request

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Publish a request and wait for its answer, or for the first chunk of it.

        Raises:
            httpx2.ReadTimeout: there was no answer in time.
            httpx2.ConnectError: the broker did not take the request.
            httpx2.ReadError: the answer was lost.
        """
        call = _read(request, await request.aread())
        if isinstance(call, HttpAnswer):
            return _response(call)
        options = _options(request, call)
        try:
            keyway = await self._opened()
            if not call.is_stream:
                return _response(succeeded(await keyway.generate(call.path, call.body, **options)))
            stream = keyway.stream(call.path, call.body, **options)
            # Until then the status is not known.
            first = await anext(stream, None)
        except KeywayError as error:
            return _refused(error, request, options["request_id"])
        except ValueError as error:
            return _response(bad_request(str(error)))
        if answer := _without_chunks(call, first, stream.result):
            return _response(answer)
        return _streamed(_EventStream(call, first, stream), stream.request_id)

    async def aclose(self) -> None:
        """Leave RabbitMQ, unless the connection is the caller's own."""
        opening, self._opening = self._opening, None
        if opening is not None and opening.get_loop() is asyncio.get_running_loop():
            opening.cancel()
            (opened,) = await asyncio.gather(opening, return_exceptions=True)
            if isinstance(opened, Keyway):
                await opened.__aexit__(None, None, None)

    async def _opened(self) -> Keyway:
        """The connection that all requests of this event loop share; whoever opens it may be cancelled."""
        if isinstance(self._keyway, Keyway):
            return self._keyway
        opening, loop = self._opening, asyncio.get_running_loop()
        if opening is None or opening.get_loop() is not loop or _has_failed(opening):
            opening = self._opening = loop.create_task(Keyway(self._keyway).__aenter__())
        return await asyncio.shield(opening)


def _has_failed(opening: asyncio.Task[Keyway]) -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)


class _EventStream(httpx2.AsyncByteStream):
    """A streamed answer, as the server-sent events that it was at the provider."""

    def __init__(self, call: Call, first: GenerationChunk | None, stream: GenerationStream) -> None:
        self._path = call.path
        self._first = first
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            if self._first is not None:
                yield event(self._path, self._first.data)
                async for chunk in self._stream:
                    yield _event(self._path, chunk)
        except KeywayError as error:
            yield _last_event(error)
        else:
            yield end(self._path)

    async def aclose(self) -> None:
        # A response that is dropped is closed while its loop ends, when nothing may be awaited any more.
        self._stream.cancel()


class SyncKeywayTransport(httpx2.BaseTransport):
    """`KeywayTransport` for programs without an event loop; used from any number of threads."""

    def __init__(self, keyway: str | SyncKeyway) -> None:
        """Take an address, or an open client."""
        self._is_ours = isinstance(keyway, str)
        self._keyway = SyncKeyway(keyway) if isinstance(keyway, str) else keyway
        self._is_open = not self._is_ours
        self._opening = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Publish a request and wait for its answer, or for the first chunk of it.

        Raises:
            httpx2.ReadTimeout: there was no answer in time.
            httpx2.ConnectError: the broker did not take the request.
            httpx2.ReadError: the answer was lost.
        """
        call = _read(request, request.read())
        if isinstance(call, HttpAnswer):
            return _response(call)
        options = _options(request, call)
        try:
            self._open()
            if not call.is_stream:
                return _response(succeeded(self._keyway.generate(call.path, call.body, **options)))
            stream = self._keyway.stream(call.path, call.body, **options)
            first = next(stream, None)
        except KeywayError as error:
            return _refused(error, request, options["request_id"])
        except ValueError as error:
            return _response(bad_request(str(error)))
        if answer := _without_chunks(call, first, stream.result):
            return _response(answer)
        return _streamed(_SyncEventStream(call, first, stream), stream.request_id)

    def close(self) -> None:
        """Leave RabbitMQ, unless the connection is the caller's own."""
        with self._opening:
            if self._is_ours and self._is_open:
                self._is_open = False
                self._keyway.__exit__(None, None, None)

    def _open(self) -> None:
        with self._opening:
            if not self._is_open:
                self._keyway.__enter__()
                self._is_open = True


class _SyncEventStream(httpx2.SyncByteStream):
    """`_EventStream`, blocking."""

    def __init__(self, call: Call, first: GenerationChunk | None, stream: SyncGenerationStream) -> None:
        self._path = call.path
        self._first = first
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            if self._first is not None:
                yield event(self._path, self._first.data)
                for chunk in self._stream:
                    yield _event(self._path, chunk)
        except KeywayError as error:
            yield _last_event(error)
        else:
            yield end(self._path)

    def close(self) -> None:
        # A response that is dropped is closed by whichever thread collects it.
        self._stream.cancel()


def _read(request: httpx2.Request, content: bytes) -> Call | HttpAnswer:
    timeout_s = request.extensions.get("timeout", {}).get("read")
    url = request.url
    return read_call(
        request.method,
        url.path,
        query=url.query,
        headers=request.headers,
        content=content,
        read_timeout_s=timeout_s,
    )


def _options(request: httpx2.Request, call: Call) -> dict[str, Any]:
    """What goes with the body."""
    return {
        "request_id": call.request_id or request_id_of(_identity(request), request.headers.get(RETRY_COUNT)),
        "user": call.user,
        "timeout": call.timeout_s,
        "traceparent": call.traceparent,
    }


def _identity(request: httpx2.Request) -> bytes:
    """What a request and its retry have in common."""
    return request.url.raw_path + request.content


def _refused(error: KeywayError, request: httpx2.Request, request_id: str) -> httpx2.Response:
    """The response of a request that failed before there was any.

    Raises:
        httpx2.RequestError: see `_unanswered`.
    """
    if not isinstance(error, GenerationError):
        left_open(_identity(request), request_id)
    elif not isinstance(error, DeadlineExceededError):
        return _response(failed(error, datetime.now(UTC)))
    raise _unanswered(error) from error


def _unanswered(error: KeywayError) -> httpx2.RequestError:
    """What an HTTP client says where there is no answer, or no more of it."""
    if isinstance(error, ReplyTimeoutError | DeadlineExceededError):
        return httpx2.ReadTimeout(str(error))
    if isinstance(error, PublishError):
        return httpx2.ConnectError(str(error))
    return httpx2.ReadError(str(error))


def _event(path: Path, chunk: GenerationChunk) -> bytes:
    """A chunk that follows others.

    Raises:
        httpx2.RemoteProtocolError: the answer begins anew, which HTTP can't say: the stream is broken.
    """
    if chunk.restarted:
        raise httpx2.RemoteProtocolError("the stream was lost, and the answer begins anew")
    return event(path, chunk.data)


def _last_event(error: KeywayError) -> bytes:
    """What ends a stream that fails.

    Raises:
        httpx2.RequestError: see `_unanswered`.
    """
    if isinstance(error, GenerationError) and not isinstance(error, DeadlineExceededError):
        return failed_event(error)
    raise _unanswered(error) from error


def _without_chunks(
    call: Call, first: GenerationChunk | None, result: GenerationResult | None
) -> HttpAnswer | None:
    if first is not None or result is None:
        return None
    return without_chunks(result, is_own_id=call.request_id is not None)


def _streamed(stream: _EventStream | _SyncEventStream, request_id: str) -> httpx2.Response:
    return httpx2.Response(200, headers=stream_begun(request_id), stream=stream)


def _response(answer: HttpAnswer) -> httpx2.Response:
    return httpx2.Response(answer.status, headers=answer.headers, content=answer.content)

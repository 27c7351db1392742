"""The client for programs without an event loop: the same surface, blocking.

with SyncKeyway("amqp://billing-bot:TOKEN@localhost:5672/keyway") as keyway:
    result = keyway.generate("/chat/completions", model="gpt-4o-mini",
                             messages=[{"role": "user", "content": "hello"}])
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from contracts.client import Keyway
from contracts.errors import ClientClosedError
from contracts.loop_thread import LoopThread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from datetime import datetime
    from types import TracebackType

    from pydantic import SecretStr

    from contracts.leases import Lease
    from contracts.messages import GenerationChunk, GenerationResult
    from contracts.stream import GenerationStream

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[Keyway, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncKeyway, P], T]:
    """The same method of `SyncKeyway`."""

    @wraps(method)
    def call(self: SyncKeyway, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._keyway, *args, **kwargs))

    return call


def _streaming(
    method: Callable[Concatenate[Keyway, P], GenerationStream],
) -> Callable[Concatenate[SyncKeyway, P], SyncGenerationStream]:
    @wraps(method)
    def call(self: SyncKeyway, /, *args: P.args, **kwargs: P.kwargs) -> SyncGenerationStream:
        return SyncGenerationStream(method(self._keyway, *args, **kwargs), self._loop)

    return call


def _leasing(
    method: Callable[Concatenate[Keyway, P], Coroutine[Any, Any, Lease]],
) -> Callable[Concatenate[SyncKeyway, P], SyncLease]:
    @wraps(method)
    def call(self: SyncKeyway, /, *args: P.args, **kwargs: P.kwargs) -> SyncLease:
        return SyncLease(self._loop.run(method(self._keyway, *args, **kwargs)), self._loop)

    return call


class SyncKeyway:
    """`Keyway`, blocking; use it with `with`, from any number of threads.

    Arguments, results and errors are those of `Keyway`. Callbacks are called in the client's own thread,
    and are not to call the client.
    """

    def __init__(
        self,
        url: str,
        *,
        automation_id: str | None = None,
        version: str | None = None,
        heartbeat_s: float = 30.0,
    ) -> None:
        self._keyway = Keyway(url, automation_id=automation_id, version=version, heartbeat_s=heartbeat_s)
        self._thread: LoopThread | None = None

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            PublishError: the broker can't be reached or refuses the user or token.
        """
        self._thread = LoopThread()
        try:
            self._thread.run(self._keyway.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect; calls of other threads that still wait raise `ClientClosedError`."""
        try:
            self._loop.run(self._keyway.__aexit__(None, None, None))
        finally:
            self._stop()

    generate = _blocking(Keyway.generate)
    generate_many = _blocking(Keyway.generate_many)
    submit = _blocking(Keyway.submit)
    stream = _streaming(Keyway.stream)
    lease = _leasing(Keyway.lease)

    def results(self, name: str, *, idle_s: float | None = None) -> SyncResults:
        """Collect what `submit` asked for; see `Keyway.results`."""
        return SyncResults(self._keyway.results(name, idle_s=idle_s), self._loop)

    @property
    def _loop(self) -> LoopThread:
        if self._thread is None:
            raise ClientClosedError("the client is not connected; use `with SyncKeyway(…)`")
        return self._thread

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()


class SyncGenerationStream:
    """`GenerationStream` as an iterator; use it with `with`, which closes it."""

    def __init__(self, stream: GenerationStream, loop: LoopThread) -> None:
        self._stream = stream
        self._loop = loop

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self._stream.request_id

    @property
    def result(self) -> GenerationResult | None:
        """The result that followed the last chunk; None before."""
        return self._stream.result

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> GenerationChunk:
        """The next chunk; errors are those of `GenerationStream`."""
        chunk = self._loop.run(_next(self._stream))
        if chunk is None:
            raise StopIteration
        return chunk

    def __enter__(self) -> Self:
        """Send the request."""
        self._loop.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the stream."""
        self.close()

    def close(self) -> None:
        """Close the stream; if it is unfinished, its worker stops the call."""
        self._loop.run(self._stream.aclose())

    def cancel(self) -> None:
        """Close the stream without waiting; also where the client's own thread collects garbage."""
        self._loop.call_soon(self._stream.cancel)


class SyncResults:
    """Results as an iterator.

    One that is dropped unfinished gives back what it has not handed out, without a wait: the event loop does
    it when its async generator is collected, in whichever thread that is.
    """

    def __init__(self, results: AsyncGenerator[GenerationResult, None], loop: LoopThread) -> None:
        self._results = results
        self._loop = loop

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> GenerationResult:
        """The next result; errors are those of `Keyway.results`."""
        result = self._loop.run(_next_result(self._results))
        if result is None:
            raise StopIteration
        return result

    def close(self) -> None:
        """Give back what is not handed out, and wait until it is."""
        self._loop.run(self._results.aclose())


class SyncLease:
    """`Lease`, blocking; attributes and errors are the same."""

    def __init__(self, lease: Lease, loop: LoopThread) -> None:
        self.lease_id: str = lease.lease_id
        self.key_alias: str = lease.key_alias
        self.base_url: str = lease.base_url
        self.expires_at: datetime = lease.expires_at
        self.requests: int = lease.requests
        self.tokens: int = lease.tokens
        self._lease = lease
        self._loop = loop

    @property
    def api_key(self) -> SecretStr:
        """The provider's API key."""
        return self._lease.api_key

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Forget the key."""
        self._loop.run(self._lease.__aexit__(None, None, None))

    def report(self, *, model: str, prompt_tokens: int, completion_tokens: int, **more: Any) -> str:
        """Report what a call with the key used; see `Lease.report`."""
        return self._loop.run(
            self._lease.report(
                model=model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, **more
            )
        )


async def _next(stream: GenerationStream) -> GenerationChunk | None:
    return await anext(stream, None)


async def _next_result(results: AsyncGenerator[GenerationResult, None]) -> GenerationResult | None:
    return await anext(results, None)

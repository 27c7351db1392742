"""A provider that may answer with any bytes: below HTTP libraries, which refuse to write most of them."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
#: How long one lie may take, in seconds; longer than the neighbour's call may.
LONGEST_LIE_S = 10.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call, read whole."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    #: Of the calls of this provider, from 0: of a lie with several forms, each call is told the next.
    number: int

    @property
    def is_streamed(self) -> bool:
        return bool(orjson.loads(self.body).get("stream")) if self.body else False

    async def send(self, *pieces: bytes) -> None:
        self.writer.writelines(pieces)
        await self.writer.drain()

    async def caller_gone(self) -> None:
        """Wait until whoever called hangs up."""
        await self.reader.read()

    async def head(self, status: str = "200 OK", *headers: bytes) -> None:
        """The status line and headers, `Connection: close` among them, so that the body may just end."""
        lines = (b"HTTP/1.1 " + status.encode(), *headers, b"Connection: close")
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n")

    async def answer(self, document: Any, *headers: bytes, status: str = "200 OK") -> None:
        """A whole answer; the document as JSON, or as the bytes that it is."""
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        length = b"Content-Length: %d" % len(body)
        await self.head(status, b"Content-Type: application/json", length, *headers)
        await self.send(body)

    async def answer_either(self, document: dict[str, Any], *headers: bytes) -> None:
        """A chat completion: whole, or as a stream of one chunk, whichever was asked for."""
        if not self.is_streamed:
            await self.answer(document, *headers)
            return
        chunk = {**document, "object": "chat.completion.chunk"}
        chunk["choices"] = [{"index": 0, "delta": {"content": "hello"}, "finish_reason": "stop"}]
        await self.head("200 OK", b"Content-Type: text/event-stream", *headers)
        await self.events(orjson.dumps(chunk), b"[DONE]")

    async def events(self, *data: bytes) -> None:
        """Events of a stream."""
        await self.send(*(b"data: " + one + b"\n\n" for one in data))


Lie = Callable[[Call], Awaitable[None]]


def completion(**changes: Any) -> dict[str, Any]:
    """A chat completion, with these fields changed."""
    message = {"role": "assistant", "content": "hello"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_795_500_000,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
        **changes,
    }


def failure(**changes: Any) -> dict[str, Any]:
    """An error as OpenAI words it, with these fields changed."""
    return {"error": {"message": "no", "type": "server_error", "code": "no", "param": None, **changes}}


@dataclass
class LyingProvider:
    """Tells each base URL's lie, and counts the calls."""

    port: int = 0
    calls: int = 0
    _lies: dict[str, Lie] = field(default_factory=dict)
    _talking: "set[asyncio.Task[None]]" = field(default_factory=set)

    def url_of(self, lie: Lie) -> str:
        """A base URL at which this is what one is told."""
        name = secrets.token_hex(4)
        self._lies[name] = lie
        return f"http://127.0.0.1:{self.port}/{name}/v1"

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one call and lie."""
        talking = asyncio.current_task()
        assert talking is not None
        self._talking.add(talking)
        try:
            # asyncio's streams would complain of one that `end` cancels.
            with suppress(asyncio.CancelledError):
                await self._lie(reader, writer)
        finally:
            self._talking.discard(talking)
            writer.close()

    async def end(self) -> None:
        """Break off all that is still told."""
        for talking in self._talking:
            talking.cancel()
        await asyncio.gather(*self._talking, return_exceptions=True)

    async def _lie(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The client hangs up on most lies.
        with suppress(OSError, EOFError, ValueError, TimeoutError):
            async with asyncio.timeout(LONGEST_LIE_S):
                call = await self._read(reader, writer)
                self.calls += 1
                await self._lies[call.path.split("/")[1]](call)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Call(first.split(" ")[1], headers, body, reader, writer, self.calls)


@asynccontextmanager
async def lying_provider() -> AsyncIterator[LyingProvider]:
    """Listen on any free port."""
    provider = LyingProvider()
    server = await asyncio.start_server(provider.on_connection, "127.0.0.1", 0)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()
        await provider.end()

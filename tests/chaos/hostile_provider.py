"""A provider that answers with bytes of its own making, from a seed: every part of HTTP may be wrong."""

import asyncio
import gzip
import json
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from random import Random
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

EVENTS = "text/event-stream"
#: The header with which workers tell a provider which request a call is for.
REQUEST_ID = b"x-client-request-id"
LARGE = b'{"id":"' + b"x" * 3_000_000 + b'"}'
ODD_NUMBERS = (
    *("-1", "0", "1", "1.5", "1e3", "1e400", "-1e400", "NaN", "Infinity", "null", "true", '"7"', "[]", "{}"),
    *(str(2**31), str(2**53), str(2**63 - 1), str(2**63), str(2**64), str(10**40), "9" * 5000),
)
ODD_VALUES = (
    *(*ODD_NUMBERS, '""', '"\\ud800"', '"\\u0000"', '"x\\r\\ny: z"', "[null]", '[{"a":1}]', '{"$set":1}'),
    *("[" * 150 + "]" * 150, "[" * 400 + "]" * 400, '"' + "y" * 70_000 + '"'),
)
WHOLE = (
    '{"id":"chatcmpl-1","model":%(model)s,"choices":%(choices)s,"usage":{"prompt_tokens":%(prompt)s,'
    '"completion_tokens":%(completion)s,"total_tokens":%(total)s,"prompt_tokens_details":%(details)s,'
    '"completion_tokens_details":{"reasoning_tokens":%(reasoning)s}},"service_tier":%(tier)s}'
)
USUAL = {
    "model": '"gpt-4o-mini"',
    "choices": '[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]',
    "prompt": "9",
    "completion": "2",
    "total": "11",
    "details": '{"cached_tokens":1}',
    "reasoning": "0",
    "tier": '"default"',
}
CHUNK = '{"model":%s,"choices":[{"index":%s,"delta":{"content":%s},"finish_reason":%s}],"usage":%s}'
STATUSES = (
    *(100, 101, 102, 103, 199, 200, 200, 200, 200, 200, 200, 201, 204, 205, 206, 226, 300, 301, 302, 303),
    *(304, 305, 307, 308, 399, 400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 425, 429, 451, 499, 500),
    *(501, 502, 503, 504, 520, 599, 600, 700, 999, 0, 1000, -1),
    *[429] * 8,
)
CODES = (
    *("insufficient_quota", "invalid_api_key", "rate_limit_exceeded", "model_not_found", "server_error", ""),
    *("$where", "x" * 5000, "\u0000", "content_policy_violation", "billing_not_active"),
)
ODD_HEADERS = (
    *(
        "-1",
        "NaN",
        "inf",
        "1e400",
        "0",
        str(2**63),
        str(10**40),
        "soon",
        "",
        "\x01",
        "6m0s",
        "-6m",
        "9" * 4000,
    ),
    *(
        "9" * 4000,
        "1e308d",
        "Thu, 01 Jan 0001 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "\u0661\u0662",
    ),
)
NAMES = (
    *["retry-after", "retry-after-ms"] * 3,
    *("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"),
    *("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests"),
    *("x-ratelimit-reset-tokens", "x-request-id", "set-cookie", "content-type", "x-should-retry"),
)
Body = Callable[[Random], bytes]


@dataclass
class HostileProvider:
    """Answers each call from its request's id and the seed; it counts the calls of each request."""

    seed: int
    #: Where redirects point: a server that must never be called.
    elsewhere: str = ""
    port: int = 0
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one call; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
        request_id = headers.get(REQUEST_ID, b"").decode()
        self.calls[request_id] += 1
        random = Random(f"{self.seed}/{request_id}/{self.calls[request_id]}")
        is_stream = b'"stream":true' in body
        answer = self.answer(random, is_stream=is_stream)
        if random.random() < 0.1:
            answer = answer[: random.randrange(len(answer) + 1)]
            await self._cut(writer, answer, is_reset=random.random() < 0.5)
            return False
        for part in pieces(random, answer):
            writer.write(part)
            await writer.drain()
        return random.random() < 0.5

    async def _cut(self, writer: asyncio.StreamWriter, answer: bytes, *, is_reset: bool) -> None:
        writer.write(answer)
        await writer.drain()
        if is_reset:
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def answer(self, random: Random, *, is_stream: bool) -> bytes:
        """The bytes of one answer."""
        status = 200 if random.random() < 0.5 else random.choice(STATUSES)
        streams = is_stream and random.random() < 0.8
        content_type = EVENTS if streams else "application/json"
        if streams:
            body = event_stream(random)
        elif status < 300:
            body = random.choice(BODIES)(random)
        else:
            body = error_body(random)
        lines = [f"HTTP/1.1 {status} Odd", f"content-type: {content_type}"]
        lines += [f"{random.choice(NAMES)}: {random.choice(ODD_HEADERS)}" for _ in range(random.randrange(4))]
        if 300 <= status < 400:
            lines.append(f"location: {self.elsewhere}")
        head = "\r\n".join(lines).encode()
        head += random.choice(HEADERS) if random.random() < 0.1 else b""
        return head + framed(random, body)


@cache
def bomb() -> bytes:
    """A hundred million bytes, compressed."""
    return gzip.compress(b" " * 100_000_000, compresslevel=1)


def pieces(random: Random, answer: bytes) -> list[bytes]:
    """The answer, as it goes into the socket."""
    if len(answer) > 100_000 or random.random() < 0.7:
        return [answer]
    cuts = sorted(random.randrange(len(answer)) for _ in range(random.randrange(1, 5)))
    return [answer[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]


#: Lines that follow the others now and then.
HEADERS = (
    b"\r\nx-huge: " + b"h" * 200_000,
    b"\r\n" + b"\r\n".join(b"x-%d: y" % number for number in range(3000)),
    b"\r\nx-odd: \xff\xfe\x80",
    b"\r\nno colon here",
    b"\r\n folded: line",
    b"\r\n: empty",
    b"\r\nx-null: a\x00b",
    b"\r\ncontent-encoding: gzip",
    b"\r\ncontent-encoding: zstd, br",
    b"\r\ncontent-encoding: nonsense",
    b"\r\nconnection: upgrade\r\nupgrade: websocket",
    b"\r\ntransfer-encoding: gzip",
)


def framed(random: Random, body: bytes) -> bytes:
    """A body with what says how long it is, true or not."""
    length = str(len(body)).encode()
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part)
    encoded = b"\r\ntransfer-encoding: chunked\r\n\r\n"
    usual = b"\r\ncontent-length: " + length + b"\r\n\r\n" + body
    odd = (
        encoded + chunked + b"0\r\n\r\n",
        encoded + chunked,
        encoded + b"zz\r\n" + body,
        encoded + b"-5\r\n" + body,
        encoded + b"ffffffffffffffff\r\n" + body,
        b"\r\ncontent-length: -1\r\n\r\n" + body,
        b"\r\ncontent-length: 1\r\n\r\n" + body,
        b"\r\ncontent-length: nonsense\r\n\r\n" + body,
        b"\r\ncontent-length: " + length + encoded + chunked + b"0\r\n\r\n",
        b"\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n" + body,
        b"\r\nconnection: close\r\n\r\n" + body,
    )
    return usual if random.random() < 0.7 else random.choice(odd)


def whole(random: Random) -> bytes:
    """A completion with some fields that are not what they should be."""
    fields = dict(USUAL)
    for name in random.sample(list(fields), random.randrange(len(fields))):
        fields[name] = random.choice(ODD_VALUES)
    return (WHOLE % fields).encode()


def error_body(random: Random) -> bytes:
    error = {"message": "no", "type": random.choice(CODES), "code": random.choice(CODES), "param": None}
    odd = (
        json.dumps({"error": error}).encode(),
        json.dumps({"error": error}).encode(),
        (f'{{"error":{random.choice(ODD_VALUES)}}}').encode(),
        (
            f'{{"error":{{"message":{random.choice(ODD_VALUES)},"code":{random.choice(ODD_VALUES)}}}}}'
        ).encode(),
        b'{"error":{"message":"' + b"m" * 70_000 + b'"}}',
        *(b"", b"<html>", b"\xff\xfe", b"[1]", b"null", b'{"error":' * 100_000, LARGE),
    )
    return random.choice(odd)


def event_stream(random: Random) -> bytes:
    """A stream whose events and framing are odd now and then."""
    end = random.choice(("\n\n", "\n\n", "\r\n\r\n", "\r\r", "\n\r\n"))
    events = []
    for _ in range(random.randrange(6)):
        odd = [random.choice(ODD_VALUES) if random.random() < 0.1 else usual for usual in EVENT]
        events.append("data: " + CHUNK % tuple(odd))
    if random.random() < 0.8:
        events.append("data: " + CHUNK % ('"gpt-4o-mini"', "0", '""', '"stop"', "null"))
    if random.random() < 0.5:
        prompt, completion = random.choice(ODD_NUMBERS), random.choice(ODD_NUMBERS)
        usage = f'{{"prompt_tokens":{prompt},"completion_tokens":{completion}}}'
        events.append('data: {"choices":[],"usage":' + usage + "}")
    if random.random() < 0.4:
        events.insert(random.randrange(len(events) + 1), random.choice(ODD_EVENTS))
    if random.random() < 0.7:
        events.append("data: [DONE]")
    text = "".join(event + end for event in events).encode(errors="surrogatepass")
    return text + random.choice((b"", b"", b"data: {", b"data: \xe4\xbd", b"data: {}\n", b": bye\n\n"))


EVENT = ('"gpt-4o-mini"', "0", '"word "', "null", "null")
ODD_EVENTS = (
    *(
        "event: error\ndata: {}",
        'data: {"error":{"message":"oops","code":"server_error"}}',
        "data",
        "event: x",
    ),
    *('data: {"error":"text"}', 'data: {"type":"error","code":7}', "data: [DONE]", "data: [1]", "data: NaN"),
    *('data: {"choices":\ndata: []}', "data: null", "id: \x00", ": ping", "retry: -1", "\ufeffdata: {}"),
    *(
        "data: " + '{"a":' * 1000,
        "data: " + "z" * 500_000,
        'data: {"choices":[7,null,{"delta":5}]}',
        "\udc80",
    ),
    'data: {"choices":[7,null,{"delta":5}]}',
    *('data: {"choices":{}}', 'data: {"choices":[{"index":[]}]}', 'data: {"model":{}}', "data: {}"),
)
BODIES: tuple[Body, ...] = (
    *([whole] * 8),
    lambda random: whole(random)[: random.randrange(300)],
    lambda _: b"[" * 100_000,
    lambda _: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    lambda _: b'{"a":' * 500 + b"1" + b"}" * 500,
    lambda _: LARGE,
    lambda _: bomb(),
    lambda _: b"\xef\xbb\xbf{}",
    lambda _: b'{"a":"\xff"}',
    lambda random: random.randbytes(500),
    lambda _: b"",
    lambda _: b"{}",
    lambda _: b"[]",
    lambda _: b'"text"',
    lambda _: b'{"x":1e400,"y":NaN}',
)


@asynccontextmanager
async def hostile_provider(seed: int) -> AsyncIterator[tuple[HostileProvider, list[bytes]]]:
    """Run one; also what was sent to the server that its redirects point to."""
    provider, astray = HostileProvider(seed), list[bytes]()

    async def stray(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        astray.append(await reader.read(10_000))
        writer.close()

    def port(server: asyncio.Server) -> int:
        found: Any = server.sockets[0].getsockname()
        return int(found[1])

    elsewhere = await asyncio.start_server(stray, "127.0.0.1", 0)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    async with elsewhere, server:
        provider.elsewhere = f"http://127.0.0.1:{port(elsewhere)}/v1/chat/completions"
        provider.port = port(server)
        yield provider, astray

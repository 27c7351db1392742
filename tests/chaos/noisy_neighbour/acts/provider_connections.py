"""Answers of a provider of the neighbour's own that are no proper HTTP, never end, or are too much."""

import asyncio
import gzip
import socket
import struct

import orjson

from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.lying_provider import Call, completion

PROVIDER_CONNECTIONS = Kind("a provider's connections")
lie = PROVIDER_CONNECTIONS.lie
MEGABYTE = 1024**2
EVENT_STREAM = b"Content-Type: text/event-stream"
JSON = b"Content-Type: application/json"
CHUNK = orjson.dumps({"choices": [{"index": 0, "delta": {"content": "word "}}]})


@lie("nothing at all, until the call's time is over")
async def silence(call: Call) -> None:
    await call.caller_gone()


@lie("a header every half second")
async def slow_headers(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(100):
        await call.send(b"X-Slow-%d: yes\r\n" % number)
        await asyncio.sleep(0.5)


@lie("a byte of the body every half second")
async def slow_body(call: Call) -> None:
    await call.head("200 OK", JSON, b"Content-Length: 1000")
    for _ in range(100):
        await call.send(b" ")
        await asyncio.sleep(0.5)


@lie("a body of fifty megabytes")
async def large_body(call: Call) -> None:
    await call.answer(completion(choices=["x" * 50 * MEGABYTE]))


@lie("twenty kilobytes that are twenty megabytes, once they are unpacked")
async def bomb(call: Call) -> None:
    await call.answer(gzip.compress(b" " * 20 * MEGABYTE, 9), b"Content-Encoding: gzip")


@lie("a body that says it is packed, and is not")
async def not_packed(call: Call) -> None:
    await call.answer(completion(), b"Content-Encoding: gzip")


@lie("a stream that never ends")
async def endless_stream(call: Call) -> None:
    await call.head("200 OK", EVENT_STREAM)
    while True:
        await call.events(CHUNK)
        await asyncio.sleep(0.01)


@lie("a stream of comments and empty events alone")
async def empty_stream(call: Call) -> None:
    await call.head("200 OK", EVENT_STREAM)
    while True:
        await call.send(b": still there\n\nevent: x\nid: 1\n\n\n")
        await asyncio.sleep(0.01)


@lie("an event of ten megabytes that never ends")
async def endless_event(call: Call) -> None:
    await call.head("200 OK", EVENT_STREAM)
    await call.send(b"data: ", b"x" * 10 * MEGABYTE)
    await call.caller_gone()


@lie("a stream of ten thousand events at once")
async def fast_stream(call: Call) -> None:
    await call.head("200 OK", EVENT_STREAM)
    await call.events(*[CHUNK] * 2000, b"[DONE]")


@lie("a reset amid the headers")
async def reset_in_headers(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    reset(call)


@lie("a reset amid the body")
async def reset_in_body(call: Call) -> None:
    await call.head("200 OK", JSON, b"Content-Length: 1000")
    await call.send(b'{"choices": [')
    reset(call)


@lie("a reset amid a stream")
async def reset_in_stream(call: Call) -> None:
    await call.head("200 OK", EVENT_STREAM)
    await call.events(CHUNK, CHUNK)
    reset(call)


@lie("header values that are no text")
async def headers_of_no_text(call: Call) -> None:
    await call.answer_either(
        completion(), b"X-Request-Id: \xff\xfe", b"Openai-Model: \xc0\x80", b"Server: \xed\xa0\x80"
    )


@lie("a thousand headers, one of a hundred kilobytes")
async def many_headers(call: Call) -> None:
    many = (b"X-%d: x" % number for number in range(1000))
    await call.answer(completion(), *many, b"X-Long: " + b"x" * 100_000)


@lie("lengths of 2^63, of -1, and two that differ", forms=3)
async def wrong_lengths(call: Call) -> None:
    odd = (
        b"Content-Length: 9223372036854775808",
        b"Content-Length: -1",
        b"Content-Length: 2\r\nContent-Length: 9",
    )
    await call.head("200 OK", JSON, odd[call.number % len(odd)])
    await call.send(orjson.dumps(completion()))


@lie("chunks of no size, and of 2^63", forms=3)
async def wrong_chunks(call: Call) -> None:
    await call.head("200 OK", JSON, b"Transfer-Encoding: chunked")
    await call.send((b"zz\r\n{}\r\n", b"8000000000000000\r\n{}", b"-1\r\n")[call.number % 3])


@lie("no HTTP at all", forms=5)
async def no_http(call: Call) -> None:
    odd = (b"AMQP\0\0\x09\x01", b"HTTP/9.9 200 OK\r\n\r\n", b"\0" * 1000, b"\r\n" * 1000, b"SSH-2.0-x\r\n")
    await call.send(odd[call.number % len(odd)])


@lie("a hundred answers that say to go on, before one that is none")
async def go_on(call: Call) -> None:
    await call.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
    await call.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")


@lie("two answers to one call")
async def two_answers(call: Call) -> None:
    body = orjson.dumps(completion())
    await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await call.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n" * 5)


def reset(call: Call) -> None:
    """End the connection with a reset, not in order."""
    linger = struct.pack("ii", 1, 0)
    call.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    call.writer.transport.abort()

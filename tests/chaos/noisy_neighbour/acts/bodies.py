"""Bodies of requests: none, huge, deep, and of absurd values."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from tests.chaos.noisy_neighbour.act import Kind
from tests.chaos.noisy_neighbour.amqp_bytes import PRECONDITION_FAILED, refusal_of
from tests.chaos.noisy_neighbour.neighbour import Neighbour
from tests.chaos.noisy_neighbour.ordinary import request_body

BODIES = Kind("bodies")
MEGABYTE = 1024**2
#: Deep enough for any parser that recurs.
DEEP = 100_000
MESSAGES = b'"messages": [{"role": "user", "content": "hello"}]'


async def ask_with(neighbour: Neighbour, *bodies: bytes) -> None:
    """Requests with each of these bodies, answered to its own queue."""
    await neighbour.declare(durable=True)
    await neighbour.ask_each(*((body, {"reply_to": neighbour.reply_queue}) for body in bodies))


def with_fields(**fields: Any) -> bytes:
    """A good request with more fields of its own."""
    return orjson.dumps({**orjson.loads(request_body("hello")), **fields})


@BODIES.act("five hundred bodies of no byte at all")
async def nothing(neighbour: Neighbour) -> None:
    await ask_with(neighbour, *[b""] * neighbour.many(500))


@BODIES.act("lists and objects nested a hundred thousand deep")
async def deep(neighbour: Neighbour) -> None:
    inner = b'{"a":' * DEEP + b"1" + b"}" * DEEP
    await ask_with(
        neighbour,
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        inner,
        b'{"path": "/chat/completions", "body": ' + inner + b"}",
        b'{"path": "/chat/completions", "body": {"model": "m", "a": ' + b"[" * 500 + b"]" * 500 + b"}}",
        b'{"path": "/chat/completions", "body": {"model": "m"}, "metadata": '
        + b'{"a":' * 150
        + b"1"
        + b"}" * 151,
    )


@BODIES.act("bodies just within the limit, and just above it")
async def about_the_limit(neighbour: Neighbour) -> None:
    limit = neighbour.world.settings.max_body_bytes
    empty = len(request_body(""))
    await ask_with(
        neighbour,
        request_body("x" * (limit - empty)),
        request_body("x" * (limit - empty + 1)),
        b" " * (limit + 1),
    )


@BODIES.act("two bodies of forty megabytes")
async def huge(neighbour: Neighbour) -> None:
    for body in (request_body("x" * 40 * MEGABYTE), b"\xff" * 40 * MEGABYTE):
        # RabbitMQ 3.10 takes it, and 4 takes 16 MiB at most.
        assert await refusal_of(ask_with(neighbour, body)) in {None, PRECONDITION_FAILED}


@BODIES.act("a million numbers, and a million names, in one request")
async def wide(neighbour: Neighbour) -> None:
    names = b",".join(b'"n%d":1' % number for number in range(300_000))
    await ask_with(
        neighbour,
        b'{"path": "/embeddings", "body": {"model": "m", "input": [' + b"1," * 1_000_000 + b"1]}}",
        b'{"path": "/chat/completions", "body": {"model": "m", ' + names + b"}}",
    )


@BODIES.act("JSON that is none, not quite, or too much")
async def no_json(neighbour: Neighbour) -> None:
    await ask_with(
        neighbour,
        *(b"null", b"[]", b"{}", b"0", b'"text"', b"NaN", b"{", b"\xef\xbb\xbf{}", b"\xff\xfe", b"\0" * 1000),
        *(b'{"path": "/moderations", "path": "/embeddings"}', b'{"path": 1e999}', b'"\\ud800"'),
        request_body("hello").decode().encode("utf-16"),
    )


@BODIES.act("numbers that no program holds")
async def absurd_numbers(neighbour: Neighbour) -> None:
    for number in (
        b"1e999",
        b"-1e999",
        b"9" * 5000,
        b"-" + b"9" * 400,
        b"NaN",
        b"Infinity",
        b"1e-999",
        b"-0",
    ):
        body = (
            b'{"path": "/chat/completions", "body": {"model": "gpt-4o-mini", "max_tokens": %b, "n": %b, %b}}'
        )
        await ask_with(neighbour, body % (number, number, MESSAGES))


@BODIES.act("fields of types that nobody expects")
async def wrong_types(neighbour: Neighbour) -> None:
    odd: tuple[Any, ...] = (
        None,
        True,
        0,
        -1,
        2**63 - 1,
        0.5,
        "",
        "x",
        [],
        [[]],
        {},
        {"a": {}},
        "\0",
        "é" * 300,
    )
    names = ("model", "messages", "stream", "max_tokens", "n", "user", "input", "stream_options")
    bodies = (request_body("hello", **{name: value}) for name in names for value in odd)
    await ask_with(neighbour, *bodies)


@BODIES.act("text with lone surrogates, NUL, and a million combining marks")
async def odd_text(neighbour: Neighbour) -> None:
    for text in (b"\\ud800", b"\\udfff\\ud800", b"\\u0000", "e\u0301".encode() + "\u0301".encode() * 500_000):
        good = request_body("hello")
        await ask_with(neighbour, good.replace(b"hello", text), good.replace(b"gpt-4o-mini", text))


@BODIES.act("deadlines that are past, a day ahead, or at the end of time")
async def deadlines(neighbour: Neighbour) -> None:
    now = datetime.now(UTC)
    times = [now + timedelta(seconds=s) for s in (-86_400, -1, 0, 0.01, 86_390, 86_500)]
    odd = (*(time.isoformat() for time in times), "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z")
    bounds: tuple[Any, ...] = (
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "+12026-01-01T00:00:00Z",
        0,
        2**53,
        -1,
    )
    await ask_with(neighbour, *(with_fields(deadline=one) for one in (*odd, *bounds)))


@BODIES.act("metadata of three megabytes, of ten thousand names, and of odd ones")
async def metadata(neighbour: Neighbour) -> None:
    many = {f"name-{number}": number for number in range(10_000)}
    odd: dict[str, Any] = {"$set": {"a": 1}, "a.b": 2, "": 3, "\0": 4, "__proto__": {}}
    each: tuple[Any, ...] = ({"a": "x" * 3 * MEGABYTE}, many, odd, [], 7)
    await ask_with(neighbour, *(with_fields(metadata=one) for one in each))


@BODIES.act("three thousand made-up model names")
async def made_up_models(neighbour: Neighbour) -> None:
    await ask_with(
        neighbour,
        *(request_body("hello", model=f"made-up-{number}") for number in range(neighbour.many(3000))),
    )


@BODIES.act("model names with dollars, dots, NUL, line ends, and of a megabyte")
async def odd_models(neighbour: Neighbour) -> None:
    odd = (
        "$set",
        "a.b",
        ".",
        "$",
        "\0",
        "a\r\nb",
        "",
        " ",
        "x" * MEGABYTE,
        "🤖" * 1000,
        "../../etc/passwd",
        "NaN",
    )
    await ask_with(
        neighbour, *(request_body("hello", model=one, stream=flag) for one in odd for flag in (False, True))
    )


@BODIES.act("a thousand made-up users")
async def made_up_users(neighbour: Neighbour) -> None:
    odd = ("$set", "a.b", "\0", "", "x" * 256, "x" * 257, "é" * 256)
    named = (f"user-{number}" for number in range(neighbour.many(1000)))
    await ask_with(neighbour, *(with_fields(user_id=one) for one in (*odd, *named)))


@BODIES.act("paths that lead elsewhere")
async def paths(neighbour: Neighbour) -> None:
    odd = (
        "/models",
        "..",
        "/../admin",
        "//evil.example/v1",
        "http://evil.example",
        "/chat/completions?x=1",
        "/chat/completions\r\nHost: x",
        "",
        "/chat/completions/",
    )
    await ask_with(neighbour, *(with_fields(path=one) for one in odd))

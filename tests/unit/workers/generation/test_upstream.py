"""The call to the provider, against a server on this machine that misbehaves in every way."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer
from pydantic import SecretStr

from contracts.messages import Outcome
from infra.local.simulator import create_app
from infra.local.simulator.script import Script
from workers.generation import upstream as upstream_module
from workers.generation.answers import Answer, Failure
from workers.generation.assembly import Assembly
from workers.generation.classification import CANCELLED, READER_TOO_SLOW, Next
from workers.generation.json_bounds import MOST_CONTAINERS, MOST_VALUES
from workers.generation.upstream import Upstream

SECRET = "sk-very-secret-0123456789"
HELLO = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}'
CUT = {"Content-Length": "1000", "Content-Type": "application/json"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Ask = Callable[..., Awaitable[Answer | Failure]]


class Provider:
    """A server that answers as the test says, and what it was asked."""

    def __init__(self) -> None:
        self.handler: Handler = self.echo
        self.requests: list[tuple[web.Request, bytes]] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        return await self.handler(request)

    async def echo(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"authorization": request.headers["authorization"]})

    def answers(self, status: int, body: bytes | str, content_type: str = "application/json") -> None:
        raw = body if isinstance(body, bytes) else body.encode()

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=raw, content_type=content_type)

        self.handler = answer


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def server(provider: Provider) -> AsyncIterator[BaseTestServer]:
    app = web.Application()
    app.router.add_post("/v1/{path:.*}", provider.serve)
    async with TestServer(app) as running:
        yield running


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    opened = Upstream(10)
    yield opened
    await opened.close()


@pytest.fixture
def ask(upstream: Upstream, server: BaseTestServer) -> Ask:
    return partial(call, upstream, str(server.make_url("/v1")))


async def call(
    upstream: Upstream, base_url: str, key: str = SECRET, request_id: str = "req-1", timeout_s: float = 10.0
) -> Answer | Failure:
    return await upstream.call(
        base_url, SecretStr(key), "/chat/completions", HELLO, request_id=request_id, timeout_s=timeout_s
    )


async def refused(answer: Awaitable[Answer | Failure]) -> Failure:
    failure = await answer
    assert isinstance(failure, Failure)
    assert failure.latency_ms >= 0
    return failure


async def test_the_providers_answer_comes_as_the_bytes_that_it_sent(provider: Provider, ask: Ask) -> None:
    body = b'{ "id": "chatcmpl-1", "big": 123456789012345678901234567890, "x": 1.0 }'
    provider.answers(200, body)
    answer = await ask()
    assert isinstance(answer, Answer)
    assert (answer.raw, answer.http_status) == (body, 200)
    assert answer.document["id"] == "chatcmpl-1"


async def test_the_provider_is_sent_the_body_as_it_is_with_key_and_request_id(
    provider: Provider, ask: Ask
) -> None:
    await ask()
    ((request, body),) = provider.requests
    assert (request.path, body) == ("/v1/chat/completions", HELLO)
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["x-client-request-id"] == "req-1"
    assert request.content_type == "application/json"


@pytest.mark.parametrize(
    ("request_id", "sent"),
    [
        ("order-42:1/a b", "order-42:1/a%20b"),
        ("\u0437\u0430-42", "%D0%B7%D0%B0-42"),
        ("\u00e9", "%C3%A9"),
        ("a\r\nx-evil: 1", "a%0D%0Ax-evil:%201"),
    ],
)
async def test_any_request_id_can_be_sent(provider: Provider, ask: Ask, request_id: str, sent: str) -> None:
    assert isinstance(await ask(request_id=request_id), Answer)
    ((request, _),) = provider.requests
    assert request.headers["x-client-request-id"] == sent
    assert "x-evil" not in request.headers


async def test_the_proxy_of_the_environment_is_used_where_that_is_set_but_where_it_says_not(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.serve)
    upstream = Upstream(10, proxy_from_environment=True)
    async with TestServer(app) as proxy:
        monkeypatch.setenv("http_proxy", str(proxy.make_url("/")))
        monkeypatch.setenv("no_proxy", "unreachable.invalid")
        assert isinstance(await call(upstream, "http://provider.invalid/v1"), Answer)
        failure = await refused(call(upstream, "http://unreachable.invalid/v1"))
    await upstream.close()
    assert failure.verdict.outcome is Outcome.CONNECTION_ERROR
    assert [str(request.url) for request, _ in provider.requests] == [
        "http://provider.invalid/v1/chat/completions"
    ]


@pytest.mark.parametrize(
    ("base_url", "code"),
    [
        ("https://api.example.com:44e/v1", "wrong_base_url"),
        ("https://api.example.com:99999/v1", "wrong_base_url"),
        ("http://a..b/v1", "wrong_base_url"),
        ("http://user:password@127.0.0.1/v1", "wrong_base_url"),
        ("file:///etc/passwd", "wrong_base_url"),
        ("", "wrong_base_url"),
        (None, "wrong_base_url"),
    ],
)
async def test_a_key_with_a_wrong_address_fails_alone_and_is_stopped(
    upstream: Upstream, base_url: Any, code: str
) -> None:
    failure = await refused(call(upstream, base_url))
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.AUTH_FAILED, Next.OTHER_KEY)
    assert (failure.error_code, failure.http_status) == (code, None)


@pytest.mark.parametrize("key", ["", "sk-a\r\nx-evil: 1", "sk-\u00e9", "sk-\ud800", "sk-\x00"])
async def test_a_key_that_can_not_stand_in_a_header_fails_alone_and_is_stopped(
    provider: Provider, ask: Ask, key: str
) -> None:
    failure = await refused(ask(key))
    assert (failure.verdict.outcome, failure.error_code) == (Outcome.AUTH_FAILED, "wrong_api_key_characters")
    assert not provider.requests


async def test_an_exception_that_nobody_foresaw_is_a_failure_of_the_call(
    upstream: Upstream, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(upstream._session, "post", broken)
    failure = await refused(ask())
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.BAD_RESPONSE, Next.BACK_OFF)


async def test_an_answer_that_is_too_large_is_not_asked_for_again(
    provider: Provider, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.keys.provider_http.MOST_ANSWER_BYTES", 100)
    provider.answers(200, json.dumps({"id": "x" * 100}))
    failure = await refused(ask())
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.BAD_RESPONSE, Next.GIVE_UP)
    assert "larger than" in failure.message


def intricate(of: str, count: int) -> bytes:
    """An object with a list of so many values."""
    return b'{"choices":[' + b",".join([of.encode()] * count) + b"]}"


INTRICATE = [("{}", MOST_CONTAINERS), ("[]", MOST_CONTAINERS), ("1", MOST_VALUES + 2)]


@pytest.mark.parametrize(("of", "count"), INTRICATE)
async def test_an_answer_of_too_many_values_is_neither_parsed_nor_asked_for_again(
    provider: Provider, ask: Ask, of: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_module, "_document", None)
    provider.answers(200, intricate(of, count))
    failure = await refused(ask())
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.BAD_RESPONSE, Next.GIVE_UP)
    assert "more values than are read" in failure.message


async def test_an_answer_of_many_values_is_read(provider: Provider, ask: Ask) -> None:
    provider.answers(200, intricate("1", 1_000_000))
    answer = await ask()
    assert isinstance(answer, Answer)
    assert len(answer.document["choices"]) == 1_000_000


@pytest.mark.parametrize("depth", [300, 900, 100_000])
@pytest.mark.parametrize("status", [200, 400])
async def test_an_answer_that_is_nested_too_deeply_is_a_failure(
    provider: Provider, ask: Ask, status: int, depth: int
) -> None:
    provider.answers(status, '{"error":' + '{"a":' * depth + "1" + "}" * (depth + 1))
    failure = await refused(ask())
    assert failure.verdict.outcome is (Outcome.BAD_RESPONSE if status == 200 else Outcome.REJECTED)
    assert len(json.dumps(failure.provider)) < 10_000


async def test_calls_side_by_side_go_out_with_their_own_keys(ask: Ask) -> None:
    keys = [f"sk-{number}" for number in range(20)]
    answers = await asyncio.gather(*(ask(key) for key in keys))
    seen = [answer.document["authorization"] for answer in answers if isinstance(answer, Answer)]
    assert seen == [f"Bearer {key}" for key in keys]


async def test_more_keys_than_are_kept_are_no_trouble(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.generation.upstream.MAX_DESTINATIONS", 2)
    for key in ["sk-1", "sk-2", "sk-3", "sk-1", "sk-4"]:
        answer = await ask(key)
        assert isinstance(answer, Answer)
        assert answer.document["authorization"] == f"Bearer {key}"


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"error": {"message": f"bad key {SECRET}", "code": "odd", "param": [SECRET]}}),
        json.dumps({"error": {"message": f"bad key {SECRET}"}}).replace("-", "\\u002d"),
        json.dumps({SECRET: SECRET}),
        f"<html>{SECRET}</html>",
        f'"{SECRET}"',
    ],
)
async def test_a_key_that_the_provider_repeats_is_taken_out(provider: Provider, ask: Ask, body: str) -> None:
    provider.answers(400, body)
    failure = await refused(ask())
    assert failure.verdict.outcome is Outcome.REJECTED
    assert SECRET not in repr(failure)
    assert "[key]" in repr(failure)


async def test_a_key_that_the_provider_repeats_escaped_is_taken_out(provider: Provider, ask: Ask) -> None:
    provider.answers(400, r'{"error": {"message": "bad sk\u002dabc\/def"}}')
    failure = await refused(ask("sk-abc/def"))
    assert "sk-abc/def" not in repr(failure)
    assert failure.message == "bad [key]"


async def test_of_what_a_provider_says_of_a_refused_key_nothing_is_passed_on(
    provider: Provider, ask: Ask
) -> None:
    provider.answers(
        401, json.dumps({"error": {"message": "bad key sk-v***6789", "code": "invalid_api_key"}})
    )
    failure = await refused(ask())
    assert failure.verdict.outcome is Outcome.AUTH_FAILED
    assert failure.error_code == "invalid_api_key"
    assert "6789" not in repr(failure)
    assert failure.provider is None


async def test_an_error_is_judged_once_and_the_provider_is_not_asked_again(
    provider: Provider, ask: Ask
) -> None:
    error = {"error": {"message": "oops", "type": "server_error", "code": None}}
    provider.answers(500, json.dumps(error))
    failure = await refused(ask())
    assert (failure.verdict.outcome, failure.http_status) == (Outcome.SERVER_ERROR, 500)
    assert (failure.message, failure.error_code, failure.provider) == ("oops", "server_error", error)
    assert len(provider.requests) == 1


async def test_a_quota_that_is_only_in_the_type_is_seen(provider: Provider, ask: Ask) -> None:
    provider.answers(429, '{"error": {"type": "insufficient_quota", "code": "rate_limit_exceeded"}}')
    assert (await refused(ask())).verdict.outcome is Outcome.QUOTA_EXHAUSTED


async def test_the_headers_say_how_long_to_wait(provider: Provider, ask: Ask) -> None:
    async def limited(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {}}, status=429, headers={"Retry-After": "7"})

    provider.handler = limited
    failure = await refused(ask())
    assert (failure.verdict.outcome, failure.verdict.cool_ms) == (Outcome.RATE_LIMITED, 7000)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "HTTP 503"),
        ("upstream is down", "upstream is down"),
        ("[1, 2]", "[1, 2]"),
        ('{"error": "overloaded"}', "overloaded"),
        ('{"message": "overloaded"}', "overloaded"),
        ('{"error": {"message": null, "code": 17}}', "HTTP 503"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
async def test_an_error_of_any_shape_is_judged(
    provider: Provider, ask: Ask, body: bytes | str, message: str
) -> None:
    provider.answers(503, body, "text/plain")
    failure = await refused(ask())
    assert (failure.verdict.outcome, failure.message) == (Outcome.SERVER_ERROR, message)
    assert isinstance(failure.provider, dict)


@pytest.mark.parametrize("body", ["", "hello", '{"id": "chatcmpl-', "[1]", "null", '{"x": NaN}', b"\xff"])
async def test_an_answer_that_is_no_json_object_is_tried_again(
    provider: Provider, ask: Ask, body: bytes | str
) -> None:
    provider.answers(200, body)
    failure = await refused(ask())
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.BAD_RESPONSE, Next.BACK_OFF)
    assert failure.http_status == 200


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_does_not_reject_the_request(
    provider: Provider, ask: Ask, status: int
) -> None:
    async def moved(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": "/v1/elsewhere"})

    provider.handler = moved
    failure = await refused(ask())
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.BAD_RESPONSE, Next.BACK_OFF)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_that_breaks_off_is_tried_again(provider: Provider, ask: Ask, status: int) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=CUT)
        await response.prepare(request)
        await response.write(b'{"id":')
        assert request.transport is not None
        request.transport.close()
        return response

    provider.handler = cut
    failure = await refused(ask())
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.CONNECTION_ERROR, Next.BACK_OFF)


async def test_a_provider_that_does_not_answer_in_time_is_left(provider: Provider, ask: Ask) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    provider.handler = hang
    failure = await refused(ask(timeout_s=0.05))
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.TIMEOUT, Next.BACK_OFF)
    assert 50 <= failure.latency_ms < 5000
    provider.handler = provider.echo
    assert isinstance(await ask(), Answer)


async def test_a_provider_that_is_not_there_is_tried_again(upstream: Upstream) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        failure = await refused(call(upstream, base_url))
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.CONNECTION_ERROR, Next.BACK_OFF)
    assert failure.verdict.blames_key
    assert failure.http_status is None


async def test_who_no_longer_waits_breaks_off_the_call(provider: Provider, ask: Ask) -> None:
    reached = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    provider.handler = hang
    asking = asyncio.ensure_future(ask())
    await reached.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, None),
        ({"invalid": True}, Outcome.AUTH_FAILED),
        ({"deactivated": True}, Outcome.AUTH_FAILED),
        ({"forbidden": True}, Outcome.AUTH_FAILED),
        ({"quota_exhausted": True}, Outcome.QUOTA_EXHAUSTED),
        ({"denied_models": ["gpt-4o-mini"]}, Outcome.MODEL_UNAVAILABLE),
        ({"rate_limited_for_ms": 500}, Outcome.RATE_LIMITED),
        ({"error_rate": 1}, Outcome.SERVER_ERROR),
        ({"overloaded_rate": 1}, Outcome.SERVER_ERROR),
        ({"broken_json_rate": 1}, Outcome.BAD_RESPONSE),
    ],
)
async def test_what_openai_says_is_understood(
    upstream: Upstream, fields: dict[str, object], outcome: Outcome | None
) -> None:
    script = Script.model_validate({"keys": [{"name": "primary", "api_key": SECRET, **fields}]})
    async with TestServer(create_app(script)) as simulator:
        answer = await call(upstream, str(simulator.make_url("/v1")))
    assert (answer.verdict.outcome if isinstance(answer, Failure) else None) == outcome


EVENTS = "text/event-stream"
FIRST = b'data: {"model": "m", "choices": [{"index": 0, "delta": {"content": "hello"}}]}\n\n'
LAST = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Streamed:
    """One streamed call: how it ended, and what was passed on."""

    def __init__(self, upstream: Upstream, base_url: str) -> None:
        self._upstream, self._base_url = upstream, base_url
        self.passed_on: list[dict[str, Any]] = []
        self.pause_s = 0.0
        self.error: Exception | None = None

    async def take(self, data: dict[str, Any]) -> None:
        await asyncio.sleep(self.pause_s)
        if self.error is not None:
            raise self.error
        self.passed_on.append(data)

    async def call(self, timeout_s: float = 10.0) -> Answer | Failure:
        return await self._upstream.stream(
            self._base_url,
            SecretStr(SECRET),
            "/chat/completions",
            HELLO,
            request_id="req-1",
            timeout_s=timeout_s,
            assembly=Assembly(hides_usage=True),
            pass_on=self.take,
        )


@pytest.fixture
def streamed(upstream: Upstream, server: BaseTestServer) -> Streamed:
    return Streamed(upstream, str(server.make_url("/v1")))


async def test_a_stream_is_passed_on_and_its_answer_is_what_is_known_of_it(
    provider: Provider, streamed: Streamed
) -> None:
    provider.answers(200, FIRST + LAST + DONE, EVENTS)
    answer = await streamed.call()
    assert isinstance(answer, Answer)
    assert (answer.raw, answer.document, answer.output_tokens) == (b"null", {"model": "m"}, 1)
    assert len(streamed.passed_on) == 2


@pytest.mark.parametrize(("of", "count"), INTRICATE)
async def test_an_event_of_too_many_values_ends_its_stream(
    provider: Provider, streamed: Streamed, of: str, count: int
) -> None:
    provider.answers(200, FIRST + b"data: " + intricate(of, count) + b"\n\n", EVENTS)
    failure = await refused(streamed.call())
    assert (failure.verdict.outcome, failure.verdict.next) == (Outcome.BAD_RESPONSE, Next.GIVE_UP)
    assert len(streamed.passed_on) == 1


@pytest.mark.parametrize(
    ("body", "outcome", "code"),
    [
        (FIRST, Outcome.BAD_RESPONSE, None),
        (FIRST + DONE, Outcome.BAD_RESPONSE, None),
        (FIRST + b"data: {broken\n\n", Outcome.BAD_RESPONSE, None),
        (FIRST + b"data: [1]\n\n", Outcome.BAD_RESPONSE, None),
        (
            FIRST + b'data: {"error": {"code": "server_error", "message": "oops"}}\n\n',
            Outcome.SERVER_ERROR,
            "server_error",
        ),
        (
            FIRST + b'data: {"type": "error", "code": "insufficient_quota", "message": "oops"}\n\n',
            Outcome.QUOTA_EXHAUSTED,
            "insufficient_quota",
        ),
    ],
    ids=["ends", "done-too-soon", "no-json", "no-object", "error", "error-event"],
)
async def test_a_stream_that_breaks_off_is_a_failure_with_what_had_come(
    provider: Provider, streamed: Streamed, body: bytes, outcome: Outcome, code: str | None
) -> None:
    provider.answers(200, body, EVENTS)
    failure = await refused(streamed.call())
    assert (failure.verdict.outcome, failure.error_code) == (outcome, code)
    assert (failure.http_status, failure.output_tokens) == (200, 1)
    assert len(streamed.passed_on) == 1


async def test_a_stream_that_is_refused_is_judged_as_any_call(provider: Provider, streamed: Streamed) -> None:
    provider.answers(401, b'{"error": {"code": "invalid_api_key", "message": "no"}}')
    failure = await refused(streamed.call())
    assert (failure.verdict.outcome, failure.output_tokens) == (Outcome.AUTH_FAILED, None)


async def test_a_stream_that_stalls_is_given_up_after_its_time(
    provider: Provider, streamed: Streamed
) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": EVENTS})
        await response.prepare(request)
        await response.write(FIRST)
        await asyncio.sleep(30)
        return response

    provider.handler = stall
    failure = await refused(streamed.call(timeout_s=3.0))
    assert (failure.verdict.outcome, failure.output_tokens) == (Outcome.TIMEOUT, 1)
    assert len(streamed.passed_on) == 1


async def test_a_reader_that_takes_longer_than_any_provider_may_is_given_up_and_no_key_is_blamed(
    provider: Provider, streamed: Streamed
) -> None:
    provider.answers(200, FIRST + LAST + DONE, EVENTS)
    streamed.pause_s = 30
    failure = await refused(streamed.call(timeout_s=3.0))
    assert failure.verdict is CANCELLED
    assert failure.output_tokens is not None
    assert not failure.verdict.blames_key


@pytest.mark.parametrize("is_reset", [False, True], ids=["ends", "reset"])
async def test_a_provider_that_loses_patience_with_a_slow_reader_is_not_asked_again_nor_blamed(
    provider: Provider, streamed: Streamed, monkeypatch: pytest.MonkeyPatch, *, is_reset: bool
) -> None:
    async def lose_patience(request: web.Request) -> web.StreamResponse:
        headers = {"content-type": EVENTS, **({"content-length": "100000"} if is_reset else {})}
        response = web.StreamResponse(headers=headers)
        response.force_close()
        await response.prepare(request)
        await response.write(FIRST)
        if is_reset and request.transport is not None:
            request.transport.close()
        return response

    monkeypatch.setattr("workers.generation.call_time.SLOW_READER_S", 0.1)
    provider.handler = lose_patience
    streamed.pause_s = 0.2
    failure = await refused(streamed.call())
    assert failure.verdict is READER_TOO_SLOW
    assert not failure.verdict.blames_key
    assert failure.output_tokens is not None


async def test_what_the_reader_raises_is_not_taken_for_the_providers(
    provider: Provider, streamed: Streamed
) -> None:
    class GoneError(Exception):
        pass

    provider.answers(200, FIRST + LAST + DONE, EVENTS)
    streamed.error = GoneError()
    with pytest.raises(GoneError):
        await streamed.call()


async def test_a_provider_that_does_not_stream_is_answered_by_all_the_same(
    provider: Provider, streamed: Streamed
) -> None:
    provider.answers(200, b'{"id": "whole"}')
    answer = await streamed.call()
    assert isinstance(answer, Answer)
    assert (answer.raw, answer.document) == (b'{"id": "whole"}', {"id": "whole"})
    assert streamed.passed_on == []

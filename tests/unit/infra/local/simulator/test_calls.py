"""The simulator over HTTP: who is refused and why, each fault, each limit, and the journal of it all."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer

from infra.local.simulator import MAX_BODY_BYTES, PROVIDER, create_app
from infra.local.simulator.journal import Call
from infra.local.simulator.script import Script

SECRET = "sk-very-secret-0123456789"
NOON = 1_800_000_000.0
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
HELLO_TOKENS = 2 + 3
STREAM = {**HELLO, "stream": True}


class Time:
    """A clock that only moves when somebody sleeps, or says so; `hold` makes sleepers wait."""

    def __init__(self) -> None:
        self.now = NOON
        self.hold = False
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await (asyncio.Event().wait() if self.hold else asyncio.sleep(0))


class Simulated:
    """A running simulator, and what a test wants to know of it."""

    def __init__(self, client: TestClient[Any, Any], time: Time) -> None:
        self.http = client
        self.time = time
        assert client.app is not None
        self.provider = client.app[PROVIDER]

    async def post(
        self, body: Any = HELLO, path: str = "/chat/completions", key: str = SECRET, **headers: str
    ) -> aiohttp.ClientResponse:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.http.post(
            f"/v1{path}", data=BytesIO(data), headers={"Authorization": f"Bearer {key}", **headers}
        )

    async def error(self, **asked: Any) -> tuple[int, Any, Any]:
        answer = await self.post(**asked)
        error = (await answer.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return answer.status, error["type"], error["code"]

    @property
    def calls(self) -> list[Call]:
        calls: list[Call] = self.provider.journal.calls()
        return calls

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)


Simulate = Callable[..., Awaitable[Simulated]]


@asynccontextmanager
async def running(time: Time, journal: Path | None, script: Script) -> AsyncIterator[Simulated]:
    app = create_app(script, journal_path=journal, clock=time, random=Random(1), sleep=time.sleep)
    async with TestClient(TestServer(app)) as client:
        yield Simulated(client, time)


@pytest.fixture
async def simulate() -> AsyncIterator[Simulate]:
    """Start a simulator whose key `primary` is scripted with the fields given."""
    async with AsyncExitStack() as stack:

        async def start(*, journal: Path | None = None, **fields: Any) -> Simulated:
            key = {"name": "primary", "api_key": SECRET, **fields}
            return await stack.enter_async_context(
                running(Time(), journal, Script.model_validate({"keys": [key]}))
            )

        yield start


REFUSALS = [
    ({"invalid": True}, (401, "invalid_request_error", "invalid_api_key"), "invalid_key"),
    ({"deactivated": True}, (401, "invalid_request_error", "account_deactivated"), "invalid_key"),
    ({"forbidden": True}, (403, "access_terminated", "access_terminated"), "forbidden"),
    (
        {"quota_exhausted": True},
        (429, "insufficient_quota", "insufficient_quota"),
        "insufficient_quota",
    ),
    (
        {"denied_models": ["gpt-4o-mini"]},
        (404, "invalid_request_error", "model_not_found"),
        "model_not_found",
    ),
    ({"rate_limited_for_ms": 500}, (429, "requests", "rate_limit_exceeded"), "rate_limited"),
    ({"error_rate": 1}, (500, "server_error", None), "server_error"),
    ({"overloaded_rate": 1}, (503, "server_error", None), "overloaded"),
]


@pytest.mark.parametrize("body", [HELLO, STREAM])
@pytest.mark.parametrize(("fields", "error", "outcome"), REFUSALS)
async def test_a_scripted_refusal_is_openais_and_in_the_journal(
    simulate: Simulate, fields: dict[str, Any], error: tuple[int, str, str], outcome: str, body: Any
) -> None:
    simulated = await simulate(**fields)
    assert await simulated.error(body=body) == error
    (call,) = simulated.calls
    assert (call.outcome, call.http_status, call.total_tokens) == (outcome, error[0], 0)


async def test_keys_without_a_script_are_refused(simulate: Simulate) -> None:
    simulated = await simulate()
    assert await simulated.error(key="sk-other") == (401, "invalid_request_error", "invalid_api_key")
    answer = await simulated.http.post("/v1/chat/completions", json=HELLO)
    assert (answer.status, (await answer.json())["error"]["code"]) == (401, None)
    assert [call.outcome for call in simulated.calls] == ["invalid_key"] * 2
    assert simulated.calls[0].key.startswith("unknown-")
    assert simulated.calls[1].key == "none"


async def test_without_a_script_every_key_is_good() -> None:
    async with TestClient(TestServer(create_app())) as client:
        for key in ("sk-one", "sk-two", "sk-one"):
            answer = await client.post(
                "/v1/chat/completions", json=HELLO, headers={"Authorization": f"Bearer {key}"}
            )
            assert answer.status == 200
        assert client.app is not None
        one, two, again = (call.key for call in client.app[PROVIDER].journal.calls())
        assert one == again != two


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b"{", "/chat/completions", 400),
        (b"[1]", "/chat/completions", 400),
        ({"messages": []}, "/chat/completions", 400),
        ({"model": "gpt-4o", "messages": 5}, "/chat/completions", 400),
        (
            {"model": "gpt-4o", "messages": [{"role": "user", "content": "a [content-policy] b"}]},
            "/chat/completions",
            400,
        ),
        (b"x" * (MAX_BODY_BYTES + 1), "/chat/completions", 413),
        (HELLO, "/completions", 404),
    ],
)
async def test_a_request_that_is_wrong_is_journaled_as_such(
    simulate: Simulate, body: Any, path: str, status: int
) -> None:
    simulated = await simulate()
    assert (await simulated.error(body=body, path=path))[0] == status
    (call,) = simulated.calls
    assert (call.outcome, call.http_status, call.path) == ("bad_request", status, path)


@pytest.mark.parametrize(
    "messages", [[5], [{"role": "user", "content": None}], [{"content": [1, {"text": 2}]}]]
)
async def test_messages_without_text_are_answered(simulate: Simulate, messages: list[Any]) -> None:
    answer = await (await simulate()).post({"model": "gpt-4o", "messages": messages})
    assert answer.status == 200
    assert (await answer.json())["usage"]["prompt_tokens"] == 3


async def test_a_path_that_is_nowhere_is_a_404_in_json(simulate: Simulate) -> None:
    answer = await (await simulate()).http.get("/nowhere")
    assert answer.status == 404
    assert "Invalid URL (GET /nowhere)" in (await answer.json())["error"]["message"]


async def test_models_are_listed_though_quota_and_limits_are_spent(simulate: Simulate) -> None:
    simulated = await simulate(quota_exhausted=True, requests_per_minute=1, denied_models=["gpt-4o"])
    for _ in range(3):
        answer = await simulated.http.get("/v1/models", headers={"Authorization": f"Bearer {SECRET}"})
        assert answer.status == 200
        names = {model["id"] for model in (await answer.json())["data"]}
        assert "gpt-4o-mini" in names
        assert "gpt-4o" not in names
    assert {(call.path, call.outcome, call.total_tokens) for call in simulated.calls} == {
        ("/models", "ok", 0)
    }


async def test_over_the_request_limit_it_says_exactly_when_to_come_back(simulate: Simulate) -> None:
    simulated = await simulate(requests_per_minute=2)
    assert [(await simulated.post()).status for _ in "ab"] == [200, 200]
    simulated.time.now += 47.5
    refused = await simulated.post()
    assert refused.status == 429
    assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("13", "12500")
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "12.5s"
    error = (await refused.json())["error"]
    assert error["type"] == "requests"
    assert error["code"] == "rate_limit_exceeded"
    assert error["message"] == (
        "Rate limit reached for gpt-4o-mini on requests per min (RPM): Limit 2, Used 2, Requested 1. "
        "Please try again in 12.5s."
    )
    simulated.time.now += 12.5
    assert (await simulated.post()).status == 200
    assert [call.outcome for call in simulated.calls] == ["ok", "ok", "rate_limited", "ok"]


@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_day"])
async def test_the_token_limits_count_what_usage_says(simulate: Simulate, limit: str) -> None:
    simulated = await simulate(**{limit: 100, "completion_tokens": 45})
    for _ in range(2):
        answer = await simulated.post()
        assert (await answer.json())["usage"]["total_tokens"] == HELLO_TOKENS + 45
    assert await simulated.error() == (429, "tokens", "rate_limit_exceeded")
    assert sum(call.total_tokens for call in simulated.calls) == 100


async def test_the_token_limit_is_in_the_headers_of_every_answer(simulate: Simulate) -> None:
    simulated = await simulate(tokens_per_minute=100, completion_tokens=45)
    for body in (HELLO, STREAM):
        answer = await simulated.post(body)
        assert answer.headers["x-ratelimit-limit-tokens"] == "100"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
    assert answer.headers["x-ratelimit-reset-tokens"] == "1m0s"
    assert (await simulated.post(b"{")).headers["x-ratelimit-remaining-tokens"] == "0"


async def test_a_failed_call_counts_against_the_limits(simulate: Simulate) -> None:
    simulated = await simulate(requests_per_minute=1, error_rate=1)
    assert (await simulated.post()).status == 500
    assert (await simulated.post()).status == 429


async def test_it_refuses_for_a_while_from_the_first_call_on(simulate: Simulate) -> None:
    simulated = await simulate(rate_limited_for_ms=500)
    simulated.time.now += 1000
    assert (await simulated.post()).headers["retry-after-ms"] == "500"
    simulated.time.now += 0.4
    assert (await simulated.post()).headers["retry-after-ms"] == "100"
    simulated.time.now += 0.1
    assert (await simulated.post()).status == 200


async def test_latency_passes_before_the_answer_and_is_spread_over_a_stream(simulate: Simulate) -> None:
    simulated = await simulate(latency_ms=300)
    await simulated.post()
    assert simulated.time.slept == [0.3]
    await (await simulated.post(STREAM)).read()
    pauses = simulated.time.slept[1:]
    assert len(pauses) > 5
    assert sum(pauses) == pytest.approx(0.3)
    assert [call.ended_at - call.at for call in simulated.calls] == pytest.approx([0.3, 0.3])


async def test_an_answer_without_usage_is_billed_all_the_same(simulate: Simulate) -> None:
    simulated = await simulate(omit_usage=True, completion_tokens=10)
    assert "usage" not in await (await simulated.post()).json()
    text = await (await simulated.post({**STREAM, "stream_options": {"include_usage": True}})).text()
    assert "usage" not in text
    assert [call.total_tokens for call in simulated.calls] == [HELLO_TOKENS + 10] * 2


@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_broken_json_comes_with_a_200(simulate: Simulate, body: Any) -> None:
    simulated = await simulate(broken_json_rate=1, completion_tokens=10)
    answer = await simulated.post(body)
    assert answer.status == 200
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(await answer.read())
    (call,) = simulated.calls
    assert (call.outcome, call.http_status, call.total_tokens) == ("broken_json", 200, HELLO_TOKENS + 10)


@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_a_dropped_call_gets_no_answer(simulate: Simulate, body: Any) -> None:
    simulated = await simulate(drop_rate=1)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await simulated.post(body)
    assert {call.outcome for call in simulated.calls} == {"dropped"}
    assert {(call.http_status, call.total_tokens) for call in simulated.calls} == {(None, 0)}


@pytest.mark.parametrize("path", ["/chat/completions", "/responses"])
async def test_a_cut_stream_ends_in_the_middle_with_the_tokens_so_far(simulate: Simulate, path: str) -> None:
    simulated = await simulate(cut_stream_rate=1, completion_tokens=1000)
    answer = await simulated.post({**STREAM, "input": "hello"}, path)
    await answer.content.readuntil(b"Hello")
    with pytest.raises(aiohttp.ClientPayloadError):
        await answer.content.read()
    (call,) = simulated.calls
    assert (call.outcome, call.http_status, call.stream) == ("cut", 200, True)
    assert 300 < call.completion_tokens < 600


async def test_a_hanging_call_ends_when_the_client_goes(simulate: Simulate) -> None:
    simulated = await simulate(hang_rate=1)
    asking = asyncio.create_task(simulated.post())
    await simulated.until(lambda: simulated.provider.in_flight == 1)
    assert await (await simulated.http.get("/healthz")).json() == {"status": "ok", "in_flight": 1}
    asking.cancel()
    await simulated.until(lambda: bool(simulated.calls))
    (call,) = simulated.calls
    assert (call.outcome, call.http_status, call.total_tokens) == ("hang", None, 0)


async def test_a_client_that_goes_before_the_answer_is_journaled(simulate: Simulate) -> None:
    simulated = await simulate(latency_ms=100)
    simulated.time.hold = True
    asking = asyncio.create_task(simulated.post())
    await simulated.until(lambda: bool(simulated.time.slept))
    asking.cancel()
    await simulated.until(lambda: bool(simulated.calls))
    (call,) = simulated.calls
    assert (call.outcome, call.http_status, call.model) == ("client_gone", None, "gpt-4o-mini")


async def test_a_client_that_leaves_a_stream_is_journaled_with_the_tokens_so_far(simulate: Simulate) -> None:
    simulated = await simulate(latency_ms=100, completion_tokens=1000)
    answer = await simulated.post(STREAM)
    await answer.content.readuntil(b"Hello")
    simulated.time.hold = True
    answer.close()
    await simulated.until(lambda: bool(simulated.calls))
    (call,) = simulated.calls
    assert (call.outcome, call.http_status) == ("client_gone", 200)
    assert call.prompt_tokens == HELLO_TOKENS
    assert 0 < call.completion_tokens < 1000


async def test_a_call_under_way_when_the_simulator_stops_is_journaled(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    script = Script.model_validate({"keys": [{"name": "primary", "api_key": SECRET, "hang_rate": 1}]})
    async with running(Time(), path, script) as simulated:
        asking = asyncio.create_task(simulated.post())
        await simulated.until(lambda: simulated.provider.in_flight == 1)
        await simulated.http.server.close()
        with pytest.raises(aiohttp.ClientError):
            await asking
    assert orjson.loads(path.read_bytes())["outcome"] == "hang"


async def test_every_call_is_in_the_journal_once_and_in_its_file(simulate: Simulate, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    rates = dict.fromkeys(
        ("error_rate", "overloaded_rate", "broken_json_rate", "drop_rate", "cut_stream_rate"), 0.15
    )
    simulated = await simulate(journal=path, requests_per_minute=150, **rates)

    async def ask(number: int) -> None:
        try:
            answer = await simulated.post(
                HELLO if number % 2 else STREAM, **{"X-Client-Request-Id": f"r-{number}"}
            )
            await answer.read()
        except aiohttp.ClientError:
            pass

    await asyncio.gather(*(ask(number) for number in range(200)))
    seen = Counter(call.client_request_id for call in simulated.calls)
    assert seen == Counter(f"r-{number}" for number in range(200))
    assert {call.outcome for call in simulated.calls} == {
        "ok",
        "rate_limited",
        "server_error",
        "overloaded",
        "broken_json",
        "dropped",
        "cut",
    }
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert lines == orjson.loads(orjson.dumps(simulated.calls))


async def test_headers_that_are_not_utf8_are_journaled_too(simulate: Simulate) -> None:
    simulated = await simulate()
    server = simulated.http.server
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(
        b"POST /v1/chat%FF HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-\xff\r\n"
        b"X-Client-Request-Id: r-\xff\r\nConnection: close\r\n\r\n"
    )
    assert (await reader.read()).startswith(b"HTTP/1.1 401")
    writer.close()
    await writer.wait_closed()
    calls = (await (await simulated.http.get("/admin/journal")).json())["calls"]
    assert [(call["client_request_id"], call["path"]) for call in calls] == [("r-?", "/chat%FF")]


async def test_a_record_says_all_about_its_call(simulate: Simulate) -> None:
    simulated = await simulate(completion_tokens=10, latency_ms=50)
    await simulated.post(**{"X-Client-Request-Id": "r-1"})
    assert simulated.calls == [
        Call(
            at=NOON,
            ended_at=NOON + 0.05,
            key="primary",
            path="/chat/completions",
            model="gpt-4o-mini",
            body_sha256=sha256(orjson.dumps(HELLO)).hexdigest(),
            client_request_id="r-1",
            outcome="ok",
            http_status=200,
            prompt_tokens=HELLO_TOKENS,
            completion_tokens=10,
            total_tokens=HELLO_TOKENS + 10,
            stream=False,
        )
    ]


async def test_the_api_key_is_nowhere_to_be_read(
    simulate: Simulate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "journal.jsonl"
    simulated = await simulate(journal=path, requests_per_minute=1)
    told = ""
    for key in (SECRET, SECRET, f"{SECRET}-unknown"):
        answer = await simulated.post(key=key)
        told += await answer.text() + str(answer.headers)
    told += await (await simulated.http.get("/admin/keys")).text()
    told += await (await simulated.http.get("/admin/journal")).text()
    told += await (await simulated.http.put("/admin/keys/x", json={"api_key": SECRET})).text()
    told += (
        repr(simulated.provider.script) + repr(simulated.provider._states) + path.read_text() + caplog.text
    )
    assert "primary" in told
    assert SECRET not in told

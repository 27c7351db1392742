"""The OpenAI SDK over the queue gives what it gives over HTTP: both ask the same simulator."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from contracts import SyncKeyway
from contracts.openai_transport import KeywayTransport, keyway_http_client, sync_keyway_http_client
from tests.harness import World, eventually

MODEL = "gpt-4o-mini"
HELLO: list[Any] = [{"role": "user", "content": "Say hello, please."}]
#: Longer than the SDK and Keyway's client wait where a test says a timeout of 1 s.
SLOW_MS = 9000
#: What differs between two answers to the same request.
PASSING = {"id", "created", "created_at", "call_id", "item_id", "completed_at"}


class Person(BaseModel):
    """What structured output is asked for."""

    name: str
    age: int
    nickname: str | None


PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CHAT_TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": PARAMETERS, "strict": True},
}
RESPONSE_TOOL: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}

Ask = Callable[[Any], Any]
ANSWERED: dict[str, Ask] = {
    "chat": lambda client: client.chat.completions.create(model=MODEL, messages=HELLO),
    "chat with fields that have names of the client's own": lambda client: client.chat.completions.create(
        model=MODEL, messages=HELLO, user="u-7", metadata={"campaign": "spring"}, store=True, timeout=60
    ),
    "chat with a chosen tool": lambda client: client.chat.completions.create(
        model=MODEL, messages=HELLO, tools=[CHAT_TOOL], tool_choice="required"
    ),
    "chat with a length limit": lambda client: client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=2, n=2
    ),
    "chat parsed": lambda client: client.chat.completions.parse(
        model=MODEL, messages=HELLO, response_format=Person
    ),
    "chat in other scripts": lambda client: client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Grüße \u2028 \U0001f600 \x85 \\ud83d"}]
    ),
    "response": lambda client: client.responses.create(
        model=MODEL, input="Say hello.", user="u-7", metadata={"campaign": "spring"}
    ),
    "response with a tool": lambda client: client.responses.create(
        model=MODEL, input="Say hello.", tools=[RESPONSE_TOOL], tool_choice="required"
    ),
    "response parsed": lambda client: client.responses.parse(
        model=MODEL, input="Say hello.", text_format=Person
    ),
    "embeddings": lambda client: client.embeddings.create(
        model="text-embedding-3-small", input=["one", "two"]
    ),
    "embeddings as floats": lambda client: client.embeddings.create(
        model="text-embedding-3-small", input="one", encoding_format="float", dimensions=64
    ),
    "moderations": lambda client: client.moderations.create(input="I like trains."),
    "images": lambda client: client.images.generate(prompt="a train", model="gpt-image-1", n=2),
}
REFUSED: dict[str, tuple[Callable[[Any, bool], Any], type[openai.APIStatusError]]] = {
    "a parameter of a wrong value": (
        lambda client, stream: client.chat.completions.create(
            model=MODEL, messages=HELLO, n=0, stream=stream
        ),
        openai.BadRequestError,
    ),
    "no messages": (
        lambda client, stream: client.chat.completions.create(model=MODEL, messages=[], stream=stream),
        openai.BadRequestError,
    ),
    "content policy": (
        lambda client, stream: client.responses.create(model=MODEL, input="[content-policy]", stream=stream),
        openai.BadRequestError,
    ),
}
STREAMED: dict[str, Ask] = {
    "chat": lambda client: client.chat.completions.create(model=MODEL, messages=HELLO, stream=True),
    "chat with usage": lambda client: client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    ),
    "chat with a tool": lambda client: client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, tools=[CHAT_TOOL], tool_choice="required"
    ),
    "chat in other scripts, twice": lambda client: client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Grüße \u2028 \U0001f600 \x85"}], stream=True, n=2
    ),
    "response": lambda client: client.responses.create(model=MODEL, input="Say hello.", stream=True),
    "response with a tool": lambda client: client.responses.create(
        model=MODEL, input="Say hello.", stream=True, tools=[RESPONSE_TOOL], tool_choice="required"
    ),
    "response that is cut short": lambda client: client.responses.create(
        model=MODEL, input="Say hello.", stream=True, max_output_tokens=1
    ),
}
FOLLOWED: dict[str, Ask] = {
    "chat": lambda client: client.chat.completions.stream(model=MODEL, messages=HELLO),
    "chat parsed": lambda client: client.chat.completions.stream(
        model=MODEL, messages=HELLO, response_format=Person
    ),
    "response": lambda client: client.responses.stream(model=MODEL, input="Say hello."),
    "response parsed": lambda client: client.responses.stream(
        model=MODEL, input="Say hello.", text_format=Person
    ),
}


class AsyncWay:
    """`AsyncOpenAI` on one way to the provider."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self.client = client

    async def ask(self, ask: Ask) -> Any:
        return await ask(self.client)

    async def stream(self, ask: Ask) -> list[Any]:
        return [chunk async for chunk in await ask(self.client)]

    async def follow(self, ask: Ask) -> tuple[list[Any], Any]:
        async with ask(self.client) as stream:
            events = [event async for event in stream]
            final = getattr(stream, "get_final_completion", None) or stream.get_final_response
            return events, await final()


class SyncWay:
    """`OpenAI` on one way to the provider, in a thread."""

    def __init__(self, client: OpenAI) -> None:
        self.client = client

    async def ask(self, ask: Ask) -> Any:
        return await asyncio.to_thread(ask, self.client)

    async def stream(self, ask: Ask) -> list[Any]:
        return await asyncio.to_thread(lambda: list(ask(self.client)))

    async def follow(self, ask: Ask) -> tuple[list[Any], Any]:
        def in_thread() -> tuple[list[Any], Any]:
            with ask(self.client) as stream:
                events = list(stream)
                final = getattr(stream, "get_final_completion", None) or stream.get_final_response
                return events, final()

        return await asyncio.to_thread(in_thread)


@dataclass
class Ways:
    """The same SDK over HTTP and over the queue."""

    http: AsyncWay | SyncWay
    queue: AsyncWay | SyncWay


def same(value: Any) -> Any:
    """What two answers to the same request have in common."""
    if isinstance(value, BaseModel):
        # The SDK itself puts what it parsed where its schema has nothing.
        return type(value), same(value.model_dump(warnings=False))
    if isinstance(value, dict):
        return {name: same(item) for name, item in value.items() if name not in PASSING}
    if isinstance(value, list):
        return [same(item) for item in value]
    return value


@dataclass
class Bot:
    """An automation with one good key, its address, and the API key itself."""

    url: str
    base_url: str
    api_key: str

    @asynccontextmanager
    async def ways(self, kind: str, **options: Any) -> AsyncIterator[Ways]:
        direct: dict[str, Any] = {"api_key": self.api_key, "base_url": self.base_url, **options}
        if kind == "async":
            http_client = keyway_http_client(self.url)
            async with (
                AsyncOpenAI(**direct) as http,
                AsyncOpenAI(api_key="-", http_client=http_client, **options) as queue,
            ):
                yield Ways(AsyncWay(http), AsyncWay(queue))
        else:
            sync_http_client = sync_keyway_http_client(self.url)
            with (
                OpenAI(**direct) as sync_http,
                OpenAI(api_key="-", http_client=sync_http_client, **options) as sync_queue,
            ):
                yield Ways(SyncWay(sync_http), SyncWay(sync_queue))


async def new_bot(world: World, **script: Any) -> tuple[str, Bot]:
    name = await world.add_automation()
    await world.add_key(name, "Primary", script)
    return name, Bot(world.url_of(name), world.simulator.base_url, world.api_keys[-1])


@pytest.fixture(scope="module", params=["async", "sync"])
async def ways(request: pytest.FixtureRequest, shared: World) -> AsyncIterator[Ways]:
    _, bot = await new_bot(shared)
    async with bot.ways(request.param) as both:
        yield both


@pytest.mark.parametrize("name", ANSWERED)
async def test_an_answer_over_the_queue_is_the_answer_over_http(name: str, ways: Ways) -> None:
    ask = ANSWERED[name]
    assert same(await ways.queue.ask(ask)) == same(await ways.http.ask(ask))


@pytest.mark.parametrize("name", STREAMED)
async def test_the_chunks_over_the_queue_are_the_chunks_over_http(name: str, ways: Ways) -> None:
    ask = STREAMED[name]
    over_queue = await ways.queue.stream(ask)
    assert same(over_queue) == same(await ways.http.stream(ask))
    assert len(over_queue) > 2


@pytest.mark.parametrize("name", FOLLOWED)
async def test_the_sdks_stream_helpers_give_the_same_events_both_ways(name: str, ways: Ways) -> None:
    ask = FOLLOWED[name]
    events, final = await ways.queue.follow(ask)
    http_events, http_final = await ways.http.follow(ask)
    assert same(events) == same(http_events)
    assert same(final) == same(http_final)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_providers_refusal_over_the_queue_is_the_one_over_http(
    name: str, stream: bool, ways: Ways
) -> None:
    ask, expected = REFUSED[name]
    with pytest.raises(expected) as over_http:
        await ways.http.ask(lambda client: ask(client, stream))
    with pytest.raises(expected) as over_queue:
        await ways.queue.ask(lambda client: ask(client, stream))
    assert over_queue.value.status_code == over_http.value.status_code
    assert over_queue.value.body == over_http.value.body
    assert str(over_queue.value) == str(over_http.value)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_model_that_no_key_may_use_is_not_found_with_a_call_and_without(
    kind: str, shared: World
) -> None:
    name, bot = await new_bot(shared, denied_models=[MODEL])
    async with bot.ways(kind) as ways:
        with pytest.raises(openai.NotFoundError) as over_http:
            await ways.http.ask(ANSWERED["chat"])
        with pytest.raises(openai.NotFoundError) as with_call:
            await ways.queue.ask(ANSWERED["chat"])
        with pytest.raises(openai.NotFoundError) as without_call:
            await ways.queue.ask(ANSWERED["chat"])
    assert with_call.value.body == over_http.value.body
    assert without_call.value.code == over_http.value.code == "model_not_found"
    assert len(await shared.journal(name)) == 2


async def test_an_endpoint_that_keyway_does_not_serve_is_not_found_and_says_what_is(ways: Ways) -> None:
    with pytest.raises(openai.NotFoundError, match="Keyway serves POST to /chat/completions"):
        await ways.queue.ask(lambda client: client.models.list())
    with pytest.raises(openai.NotFoundError, match="not POST /v1/audio/transcriptions"):
        await ways.queue.ask(
            lambda client: client.audio.transcriptions.create(file=("a.wav", b"RIFF"), model="whisper-1")
        )


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_without_a_usable_key_both_ways_say_that_the_key_is_refused(kind: str, shared: World) -> None:
    _, bot = await new_bot(shared, invalid=True)
    async with bot.ways(kind) as ways:
        with pytest.raises(openai.AuthenticationError):
            await ways.http.ask(ANSWERED["chat"])
        with pytest.raises(openai.AuthenticationError) as refused:
            await ways.queue.ask(ANSWERED["chat"])
    assert refused.value.code == "no_usable_key"


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_keys_out_of_quota_are_a_rate_limit_error_that_the_sdk_does_not_retry(
    kind: str, shared: World
) -> None:
    _, bot = await new_bot(shared, quota_exhausted=True)
    async with bot.ways(kind, timeout=20) as ways:
        with pytest.raises(openai.RateLimitError) as refused:
            await ways.queue.ask(ANSWERED["chat"])
    assert refused.value.code == "keys_exhausted"
    assert refused.value.request.headers["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_provider_that_is_too_slow_is_a_timeout_both_ways(kind: str, shared: World) -> None:
    _, bot = await new_bot(shared, latency_ms=SLOW_MS)
    async with bot.ways(kind, timeout=1, max_retries=0) as ways:
        with pytest.raises(openai.APITimeoutError):
            await ways.http.ask(ANSWERED["chat"])
        with pytest.raises(openai.APITimeoutError):
            await ways.queue.ask(ANSWERED["chat"])


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_the_sdks_retry_after_a_timeout_is_answered_by_the_call_that_was_under_way(
    kind: str, shared: World
) -> None:
    name, bot = await new_bot(shared, latency_ms=SLOW_MS)
    async with bot.ways(kind, timeout=1, max_retries=5) as ways:
        raw = await ways.queue.ask(
            lambda client: client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
        )
    assert raw.retries_taken > 0
    assert raw.parse().choices[0].message.content
    assert len(await shared.journal(name)) == 1


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_stream_that_is_cut_is_a_lost_connection_both_ways(kind: str, shared: World) -> None:
    _, bot = await new_bot(shared, cut_stream_rate=1)
    async with bot.ways(kind) as ways:
        with pytest.raises(openai.APIConnectionError):
            await ways.http.stream(STREAMED["chat"])
        with pytest.raises(openai.APIConnectionError):
            await ways.queue.stream(STREAMED["chat"])


async def test_a_stream_that_is_closed_early_stops_the_call(shared: World) -> None:
    name, bot = await new_bot(shared, latency_ms=60_000)
    async with bot.ways("async") as ways:
        assert isinstance(ways.queue, AsyncWay)
        stream = await ways.queue.client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        await anext(stream)
        await stream.close()
        (row,) = await shared.accounted(name, 1)
        assert row["outcome"] == "cancelled"


async def test_a_streamed_request_under_a_known_id_is_repeated_with_its_chunks(shared: World) -> None:
    name, bot = await new_bot(shared)
    headers = {"Idempotency-Key": "invoice-7"}
    async with bot.ways("async") as ways:
        first, second = [
            await ways.queue.stream(
                lambda client: client.chat.completions.create(
                    model=MODEL, messages=HELLO, stream=True, extra_headers=headers
                )
            )
            for _ in range(2)
        ]
        assert first == second
        assert len(await shared.journal(name)) == 1


async def test_an_idempotency_key_that_is_used_again_with_another_body_is_refused(shared: World) -> None:
    _, bot = await new_bot(shared)
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": "Hi.",
        "extra_headers": {"Idempotency-Key": "invoice-8"},
    }
    async with bot.ways("async") as ways:
        await ways.queue.ask(lambda client: client.responses.create(**asked))
        with pytest.raises(openai.ConflictError, match="was used before") as refused:
            await ways.queue.ask(lambda client: client.responses.create(**asked, stream=True))
    assert (refused.value.code, refused.value.param) == ("invalid_request", "request_id")


async def test_an_idempotency_key_is_the_requests_id_and_a_repeat_is_answered_from_the_journal(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    headers = {"Idempotency-Key": "invoice-7", "X-Keyway-User": "u-42"}
    async with AsyncOpenAI(api_key="-", http_client=keyway_http_client(shared.url_of(bot))) as queue:
        ask = queue.chat.completions.with_raw_response.create
        first = await ask(model=MODEL, messages=HELLO, extra_headers=headers)
        second = await ask(model=MODEL, messages=HELLO, extra_headers=headers)
    assert first.headers["x-request-id"] == second.headers["x-request-id"] == "invoice-7"
    assert first.headers["x-keyway-replayed"] == "false"
    assert second.headers["x-keyway-replayed"] == "true"
    assert first.headers["x-keyway-key-alias"] == "Primary"
    assert int(first.headers["x-keyway-cost-nanousd"]) > 0
    assert first.content == second.content
    (row,) = await shared.accounted(bot, 1)
    assert (row["request_id"], row["user_id"]) == ("invoice-7", "u-42")


async def test_a_hundred_calls_at_once_from_one_client_share_a_connection_and_are_all_answered(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with AsyncOpenAI(api_key="-", http_client=keyway_http_client(shared.url_of(bot))) as queue:
        answers = await asyncio.gather(
            *(
                queue.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": f"n{n}"}])
                for n in range(100)
            )
        )
        connections: list[Any] = []

        async def counted() -> bool:
            listed = await shared.admin.call("GET", "vhosts/{vhost}/connections")
            connections[:] = [one for one in listed if one["user"] == bot]
            return bool(connections)

        await eventually(counted, "the connection in RabbitMQ's statistics")
    said = [str(answer.choices[0].message.content).rpartition(" ")[2] for answer in answers]
    assert said == [f"n{n}" for n in range(100)]
    assert len(connections) == 1


async def test_threads_share_a_client_without_an_event_loop(shared: World) -> None:
    _, bot = await new_bot(shared)

    def say(client: OpenAI, word: str) -> str | None:
        asked: list[Any] = [{"role": "user", "content": word}]
        return client.chat.completions.create(model=MODEL, messages=asked).choices[0].message.content

    with OpenAI(api_key="-", http_client=sync_keyway_http_client(bot.url)) as client:
        answers = await asyncio.gather(*(asyncio.to_thread(say, client, f"n{n}") for n in range(20)))
    assert [str(answer).rpartition(" ")[2] for answer in answers] == [f"n{n}" for n in range(20)]


async def test_a_first_request_that_is_cancelled_leaves_the_connection_to_the_next(shared: World) -> None:
    _, bot = await new_bot(shared)
    transport = KeywayTransport(bot.url)
    http_client = httpx2.AsyncClient(transport=transport)
    async with AsyncOpenAI(api_key="-", http_client=http_client, max_retries=0) as queue:
        first = asyncio.create_task(queue.chat.completions.create(model=MODEL, messages=HELLO))

        async def connects() -> bool:
            return transport._opening is not None

        await eventually(connects, "the first request connecting", every_s=0)
        opening = transport._opening
        first.cancel()
        await queue.chat.completions.create(model=MODEL, messages=HELLO)
        assert first.cancelled()
        assert transport._opening is opening


async def test_a_client_of_keyway_that_is_open_may_be_given_and_stays_open(shared: World) -> None:
    name, bot = await new_bot(shared)
    async with shared.client(name) as keyway:
        async with AsyncOpenAI(api_key="-", http_client=keyway_http_client(keyway)) as queue:
            await queue.chat.completions.create(model=MODEL, messages=HELLO)
        assert await keyway.generate("/chat/completions", model=MODEL, messages=HELLO)

    def without_a_loop() -> None:
        with SyncKeyway(bot.url) as keyway:
            with OpenAI(api_key="-", http_client=sync_keyway_http_client(keyway)) as queue:
                queue.chat.completions.create(model=MODEL, messages=HELLO)
            assert keyway.generate("/chat/completions", model=MODEL, messages=HELLO)

    await asyncio.to_thread(without_a_loop)


async def test_a_broker_that_refuses_the_token_is_a_connection_error_each_time(shared: World) -> None:
    name, bot = await new_bot(shared)
    wrong = replace(bot, url=bot.url.replace(shared.tokens[name].get_secret_value(), "wrong"))
    for kind in ("async", "sync"):
        async with wrong.ways(kind, max_retries=1) as ways:
            for _ in range(2):
                with pytest.raises(openai.APIConnectionError) as refused:
                    await ways.queue.ask(ANSWERED["chat"])
                assert "refuses the user or token" in str(refused.value.__cause__)
                assert "wrong" not in str(refused.value.__cause__)


@pytest.mark.parametrize("http_client", [keyway_http_client, sync_keyway_http_client])
def test_an_address_without_an_automation_is_refused_before_the_first_request(
    http_client: Callable[[str], object],
) -> None:
    with pytest.raises(ValueError, match="is not an automation's id"):
        http_client("amqp://localhost:5672/keyway")

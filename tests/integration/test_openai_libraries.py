"""Libraries that stand on the OpenAI SDK run over the queue as they are.

They are imported by the tests themselves: together they take seconds, in each process that collects tests.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, SecretStr

from contracts.openai_transport import keyway_http_client, sync_keyway_http_client
from tests.harness import World

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

MODEL = "gpt-4o-mini"
HELLO = "Say hello, please."


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def weather(city: str, days: int) -> str:
    """The weather of a city."""
    return f"{city}: {days} days of sun"


@dataclass
class Bot:
    """An automation, and its address."""

    name: str
    url: str


@pytest.fixture(scope="module")
async def bot(shared: World) -> Bot:
    name = await shared.add_automation()
    await shared.add_key(name, "Primary")
    return Bot(name, shared.url_of(name))


@pytest.fixture(params=["chat completions", "responses"])
async def langchain(request: pytest.FixtureRequest, bot: Bot) -> AsyncIterator["ChatOpenAI"]:
    from langchain_openai import ChatOpenAI

    async with keyway_http_client(bot.url) as http_client:
        with sync_keyway_http_client(bot.url) as sync_http_client:
            yield ChatOpenAI(
                model=MODEL,
                api_key=SecretStr("-"),
                http_async_client=http_client,
                http_client=sync_http_client,
                use_responses_api=request.param == "responses",
            )


@pytest.fixture(params=["chat completions", "responses"])
async def pydantic_ai(
    request: pytest.FixtureRequest, bot: Bot
) -> AsyncIterator["OpenAIChatModel | OpenAIResponsesModel"]:
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    of = OpenAIResponsesModel if request.param == "responses" else OpenAIChatModel
    async with AsyncOpenAI(api_key="-", http_client=keyway_http_client(bot.url)) as client:
        yield of(MODEL, provider=OpenAIProvider(openai_client=client))


async def test_langchain_invokes(langchain: "ChatOpenAI") -> None:
    answer = await langchain.ainvoke(HELLO)
    assert HELLO in answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


async def test_langchain_calls_tools(langchain: "ChatOpenAI") -> None:
    answer = await langchain.bind_tools([weather], tool_choice="weather").ainvoke(HELLO)
    (call,) = answer.tool_calls
    assert call["name"] == "weather"
    assert weather(**call["args"]) == f"{call['args']['city']}: {call['args']['days']} days of sun"


async def test_langchain_gives_structured_output(langchain: "ChatOpenAI") -> None:
    assert await langchain.with_structured_output(Person).ainvoke(HELLO) == Person(name="name", age=1)


async def test_langchain_streams(langchain: "ChatOpenAI") -> None:
    pieces = [piece.text async for piece in langchain.astream(HELLO)]
    assert len([piece for piece in pieces if piece]) > 1
    assert "".join(pieces) == (await langchain.ainvoke(HELLO)).text


async def test_langchain_works_without_an_event_loop(langchain: "ChatOpenAI") -> None:
    def in_a_thread() -> tuple[str, object, str]:
        invoked = langchain.invoke(HELLO).text
        parsed = langchain.with_structured_output(Person).invoke(HELLO)
        return invoked, parsed, "".join(piece.text for piece in langchain.stream(HELLO))

    invoked, parsed, streamed = await asyncio.to_thread(in_a_thread)
    assert HELLO in invoked
    assert parsed == Person(name="name", age=1)
    assert streamed == invoked


async def test_langchain_embeds(bot: Bot) -> None:
    from langchain_openai import OpenAIEmbeddings

    async with keyway_http_client(bot.url) as http_client:
        embeddings = OpenAIEmbeddings(
            model="text-embedding-3-small",
            openai_api_key=SecretStr("-"),
            http_async_client=http_client,
            check_embedding_ctx_length=False,  # it would download a tokenizer
        )
        vectors = await embeddings.aembed_documents(["one", "two"])
    assert [len(vector) for vector in vectors] == [1536, 1536]


async def test_pydantic_ai_runs(pydantic_ai: "OpenAIChatModel | OpenAIResponsesModel") -> None:
    from pydantic_ai import Agent

    run = await Agent(pydantic_ai).run(HELLO)
    assert HELLO in run.output
    assert run.usage.output_tokens > 0


async def test_pydantic_ai_gives_structured_output(
    pydantic_ai: "OpenAIChatModel | OpenAIResponsesModel",
) -> None:
    from pydantic_ai import Agent

    run = await Agent(pydantic_ai, output_type=Person).run(HELLO)
    assert run.output == Person(name="name", age=1)


async def test_pydantic_ai_streams(pydantic_ai: "OpenAIChatModel | OpenAIResponsesModel") -> None:
    from pydantic_ai import Agent

    async with Agent(pydantic_ai).run_stream(HELLO) as run:
        pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 1
    assert HELLO in "".join(pieces)

"""The simulator's answers, as the OpenAI SDK reads them with strict validation."""

from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import openai
import orjson
import pytest
from aiohttp.test_utils import TestServer
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from openai.types.responses import FunctionToolParam
from pydantic import BaseModel

from infra.local.simulator import create_app

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello, you there"}]


class Weather(BaseModel):
    city: str
    degrees: int


CHAT_TOOL: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "weather", "parameters": Weather.model_json_schema()},
}
RESPONSE_TOOL: FunctionToolParam = {
    "type": "function",
    "name": "weather",
    "parameters": Weather.model_json_schema(),
    "strict": True,
}


@pytest.fixture
async def client() -> AsyncIterator[AsyncOpenAI]:
    server = TestServer(create_app(random=Random(1)))
    await server.start_server()
    async with AsyncOpenAI(
        api_key="sk-demo",
        base_url=str(server.make_url("/v1")),
        max_retries=0,
        _strict_response_validation=True,
    ) as sdk:
        yield sdk
    await server.close()


async def test_a_chat_completion_echoes_the_user_and_counts_the_tokens(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert completion.model == "gpt-4o-mini-2024-07-18"
    choice = completion.choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content is not None
    assert choice.message.content.startswith("Hello!")
    assert "hello, you there" in choice.message.content
    usage = completion.usage
    assert usage is not None
    assert usage.prompt_tokens == 4 + 3
    assert usage.completion_tokens == -(-len(choice.message.content) // 4)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 0


async def test_the_parts_of_a_message_count_as_its_text(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(
        model="gpt-4o",
        messages=[
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "12345"}, {"type": "text", "text": "6"}]},
        ],
    )
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 4 + 2 * 3
    assert "123456" in str(completion.choices[0].message.content)


async def test_two_answers_differ_in_their_ids_only(client: AsyncOpenAI) -> None:
    raw = [
        await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO) for _ in "ab"
    ]
    assert raw[0].headers["x-request-id"] != raw[1].headers["x-request-id"]
    first, second = (answer.parse().model_dump(exclude={"created"}) for answer in raw)
    assert first.pop("id") != second.pop("id")
    assert first == second


async def test_a_chat_stream_adds_up_to_the_whole_answer(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    stream = await client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert said == whole.choices[0].message.content
    assert len(chunks) > 5
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_chat_stream_says_its_usage_only_when_asked(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def test_several_choices_cost_their_tokens(client: AsyncOpenAI) -> None:
    one = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    three = await client.chat.completions.create(model="gpt-4o", messages=HELLO, n=3)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens


async def test_the_requests_own_maximum_caps_the_answer(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=2)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 2
    assert completion.choices[0].finish_reason == "length"
    response = await client.responses.create(model="gpt-4o", input="hello", max_output_tokens=2)
    assert response.usage is not None
    assert response.usage.output_tokens == 2
    assert response.status == "incomplete"


@pytest.mark.parametrize(
    ("choice", "reason"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "weather"}}, "stop")],
)
async def test_a_tool_that_must_be_called_is_called_with_fitting_arguments(
    client: AsyncOpenAI, choice: Any, reason: str
) -> None:
    completion = await client.chat.completions.create(
        model="gpt-4o", messages=HELLO, tools=[CHAT_TOOL], tool_choice=choice
    )
    assert completion.choices[0].finish_reason == reason
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"
    Weather.model_validate_json(calls[0].function.arguments)
    stream = await client.chat.completions.create(
        model="gpt-4o", messages=HELLO, tools=[CHAT_TOOL], tool_choice=choice, stream=True
    )
    parts = [chunk.choices[0].delta.tool_calls async for chunk in stream]
    arguments = "".join(part[0].function.arguments or "" for part in parts if part and part[0].function)
    assert arguments == calls[0].function.arguments


async def test_a_tool_that_may_be_called_is_not(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[CHAT_TOOL])
    assert completion.choices[0].message.tool_calls is None


async def test_structured_output_fits_its_schema(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.parse(model="gpt-4o", messages=HELLO, response_format=Weather)
    assert completion.choices[0].message.parsed == Weather(city="city", degrees=1)
    response = await client.responses.parse(model="gpt-4o", input="hello", text_format=Weather)
    assert response.output_parsed == Weather(city="city", degrees=1)
    loose = await client.chat.completions.create(
        model="gpt-4o", messages=HELLO, response_format={"type": "json_object"}
    )
    assert "answer" in orjson.loads(loose.choices[0].message.content or "")


async def test_a_response_repeats_the_request_and_says_its_usage(client: AsyncOpenAI) -> None:
    response = await client.responses.create(
        model="gpt-4o-mini",
        instructions="be kind",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
        metadata={"campaign": "spring"},
    )
    assert response.status == "completed"
    assert response.model == "gpt-4o-mini-2024-07-18"
    assert response.instructions == "be kind"
    assert response.metadata == {"campaign": "spring"}
    assert response.output_text.endswith("hello")
    assert response.usage is not None
    assert response.usage.input_tokens == 3 + 2 * 3
    assert response.usage.output_tokens_details.reasoning_tokens == 0


async def test_a_response_stream_tells_every_event_in_order(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model="gpt-4o", input="hello")
    events = [
        event async for event in await client.responses.create(model="gpt-4o", input="hello", stream=True)
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == whole.output_text
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage


async def test_a_response_calls_the_function_that_it_must(client: AsyncOpenAI) -> None:
    async with client.responses.stream(
        model="gpt-4o", input="hello", tools=[RESPONSE_TOOL], tool_choice="required"
    ) as stream:
        final = await stream.get_final_response()
    call = final.output[0]
    assert call.type == "function_call"
    assert call.name == "weather"
    Weather.model_validate_json(call.arguments)


async def test_embeddings_are_unit_vectors_that_tell_texts_apart(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(
        model="text-embedding-3-small", input=["one", "two", "one"], dimensions=64, encoding_format="float"
    )
    one, two, again = (item.embedding for item in answer.data)
    assert one == again != two
    assert len(one) == 64
    assert sum(value * value for value in one) == pytest.approx(1, rel=1e-3)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3
    numbers = await client.embeddings.create(
        model="text-embedding-3-small", input=[[1, 2, 3], [4, 5]], encoding_format="float"
    )
    assert (len(numbers.data), len(numbers.data[0].embedding), numbers.usage.total_tokens) == (2, 1536, 5)


async def test_embeddings_come_in_base64_as_the_sdk_asks_for_them(client: AsyncOpenAI) -> None:
    floats = await client.embeddings.create(
        model="text-embedding-3-small", input="one", encoding_format="float"
    )
    lenient = client.with_options(_extra_kwargs={"_strict_response_validation": False})
    decoded = await lenient.embeddings.create(model="text-embedding-3-small", input="one")
    assert decoded.data[0].embedding == floats.data[0].embedding


async def test_moderations_find_nothing_and_are_free(client: AsyncOpenAI) -> None:
    answer = await client.moderations.create(input=["one", "two"])
    assert [result.flagged for result in answer.results] == [False, False]


async def test_images_are_small_pngs(client: AsyncOpenAI) -> None:
    answer = await client.images.generate(model="gpt-image-1", prompt="a dog", n=2)
    assert answer.data is not None
    assert len(answer.data) == 2
    assert str(answer.data[0].b64_json).startswith("iVBORw0KGgo")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 2 + 2 * 272


async def test_models_are_listed(client: AsyncOpenAI) -> None:
    assert "gpt-4o-mini" in {model.id async for model in client.models.list()}


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda sdk: sdk.chat.completions.create(model="", messages=HELLO), None),
        (lambda sdk: sdk.chat.completions.create(model="gpt-4o", messages=[]), "empty_array"),
        (
            lambda sdk: sdk.post("/chat/completions", body={"model": "gpt-4o"}, cast_to=object),
            "missing_required_parameter",
        ),
        (lambda sdk: sdk.responses.create(model="gpt-4o", input=5), "invalid_type"),
        (
            lambda sdk: sdk.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=0),
            "invalid_value",
        ),
        (
            lambda sdk: sdk.responses.create(model="gpt-4o", input="a", tools=[5], tool_choice="required"),
            "invalid_json_schema",
        ),
        (lambda sdk: sdk.images.generate(prompt="a [content-policy] b"), "content_policy_violation"),
        (lambda sdk: sdk.post("/chat/completions", content=b"{", cast_to=object), None),
    ],
)
async def test_a_bad_request_is_refused_as_openai_does(
    client: AsyncOpenAI, call: Callable[[AsyncOpenAI], Any], code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await call(client)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code == code

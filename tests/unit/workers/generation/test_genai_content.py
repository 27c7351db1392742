"""Prompts and answers in the form of the conventions for generative AI."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Path
from tests.builders import NOW, make_envelope
from workers.generation.genai_content import of_answer, of_request
from workers.generation.reading import Request


def asked(body: dict[str, Any], path: Path = Path.CHAT_COMPLETIONS) -> dict[str, Any]:
    attributes = of_request(Request(make_envelope(), path, body, None, NOW + 60, 10))
    return {name.removeprefix("gen_ai."): json.loads(str(value)) for name, value in attributes.items()}


def answered(document: dict[str, Any]) -> Any:
    return json.loads(str(of_answer(document)["gen_ai.output.messages"]))


def text(content: str) -> dict[str, str]:
    return {"type": "text", "content": content}


def test_a_chats_messages_are_roles_with_parts() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"in":"Rome"}'}}
    body = {
        "messages": [
            {"role": "system", "content": "be kind"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
                    {"type": "file", "file": {"file_id": "f1"}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "rainy"},
        ]
    }
    assert asked(body) == {
        "input.messages": [
            {"role": "system", "parts": [text("be kind")]},
            {
                "role": "user",
                "parts": [
                    text("what is it?"),
                    {"type": "uri", "modality": "image", "uri": "https://x.test/a.png"},
                    {"type": "file", "file": {"file_id": "f1"}},
                ],
            },
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": '{"in":"Rome"}'}],
            },
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rainy"}]},
        ]
    }


def test_a_responses_input_and_instructions_stand_apart() -> None:
    body = {
        "instructions": "be kind",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "rainy"},
        ],
    }
    assert asked(body, Path.RESPONSES) == {
        "system_instructions": [text("be kind")],
        "input.messages": [
            {"role": "user", "parts": [text("hello")]},
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": "{}"}],
            },
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rainy"}]},
        ],
    }


@pytest.mark.parametrize(
    ("path", "body", "texts"),
    [
        (Path.RESPONSES, {"input": "hello"}, ["hello"]),
        (Path.EMBEDDINGS, {"input": ["a", "b"]}, ["a", "b"]),
        (Path.MODERATIONS, {"input": "bad"}, ["bad"]),
        (Path.IMAGES, {"prompt": "a cat"}, ["a cat"]),
    ],
)
def test_a_prompt_is_a_users_message(path: Path, body: dict[str, Any], texts: list[str]) -> None:
    messages = [{"role": "user", "parts": [text(said)]} for said in texts]
    assert asked(body, path) == {"input.messages": messages}


def test_a_chats_choices_are_its_answers() -> None:
    choices = [
        {"finish_reason": "stop", "message": {"role": "assistant", "content": "hi", "refusal": None}},
        {"finish_reason": "stop", "message": {"role": "assistant", "content": None, "refusal": "no"}},
    ]
    assert answered({"choices": choices}) == [
        {"role": "assistant", "parts": [text("hi")], "finish_reason": "stop"},
        {"role": "assistant", "parts": [text("no")], "finish_reason": "stop"},
    ]


def test_a_responses_output_is_one_answer() -> None:
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    ]
    parts = [
        {"type": "reasoning", "summary": []},
        text("hi"),
        {"type": "tool_call", "id": "c1", "name": "f", "arguments": "{}"},
    ]
    assert answered({"status": "completed", "output": output}) == [
        {"role": "assistant", "parts": parts, "finish_reason": "completed"}
    ]


@pytest.mark.parametrize("document", [{}, {"data": [{"b64_json": "aGk="}]}, {"model": "m", "usage": {}}])
def test_an_answer_without_text_has_none(document: dict[str, Any]) -> None:
    assert of_answer(document) == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "role", "content", "x"]), inner),
    max_leaves=10,
)
FIELDS = ("messages", "input", "prompt", "instructions", "choices", "output", "status")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, json_values)))
def test_whatever_json_comes_it_is_no_reason_to_fail(value: dict[str, Any]) -> None:
    asked(value)
    of_answer(value)

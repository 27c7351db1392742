"""A streamed answer: what is passed on, when it is whole, and what is known of it."""

import json
from typing import Any

import pytest

from contracts.messages import Path
from tests.builders import NOW, make_envelope
from workers.generation.assembly import MOST_DELTAS, Assembly, error_in, hides_usage, streamed_content
from workers.generation.reading import Request

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def request(path: Path = Path.CHAT_COMPLETIONS, **body: Any) -> Request:
    return Request(
        make_envelope(), path, {"model": "gpt-4o-mini", "stream": True, **body}, None, NOW + 60, 10
    )


def chunk(text: str = "", *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"model": "gpt-4o-mini-2024-07-18", "choices": [choice], **more}


@pytest.mark.parametrize(
    ("path", "options", "hidden", "sent"),
    [
        (Path.CHAT_COMPLETIONS, None, True, {"include_usage": True}),
        (Path.CHAT_COMPLETIONS, {}, True, {"include_usage": True}),
        (Path.CHAT_COMPLETIONS, {"include_usage": False}, True, {"include_usage": True}),
        (Path.CHAT_COMPLETIONS, {"other": 1}, True, {"other": 1, "include_usage": True}),
        (Path.CHAT_COMPLETIONS, {"include_usage": True}, False, {"include_usage": True}),
        (Path.CHAT_COMPLETIONS, "nonsense", False, "nonsense"),
        (Path.CHAT_COMPLETIONS, {"include_usage": []}, False, {"include_usage": []}),
        (Path.CHAT_COMPLETIONS, {"include_usage": [[]]}, False, {"include_usage": [[]]}),
        (Path.CHAT_COMPLETIONS, {"include_usage": {}}, False, {"include_usage": {}}),
        (Path.RESPONSES, None, False, None),
        (Path.RESPONSES, {"include_obfuscation": False}, False, {"include_obfuscation": False}),
    ],
)
def test_the_usage_of_a_chat_completion_is_asked_for_where_the_automation_does_not(
    path: Path, options: object, hidden: bool, sent: object
) -> None:
    asked = request(path) if options is None else request(path, stream_options=options)
    assert hides_usage(asked) is hidden
    body = json.loads(streamed_content(asked))
    assert body.get("stream_options") == sent
    assert {**body, "stream_options": options} == {**asked.body, "stream_options": options}


def test_usage_that_nobody_asked_for_is_counted_and_not_passed_on() -> None:
    assembly = Assembly(hides_usage=True)
    first = assembly.take(chunk("hi", finish="stop", usage=None))
    assert first == chunk("hi", finish="stop")
    assert assembly.take({"model": "m", "choices": [], "usage": USAGE}) is None
    assert assembly.document["usage"] == USAGE


def test_usage_that_was_asked_for_is_passed_on_as_it_came() -> None:
    assembly = Assembly(hides_usage=False)
    for data in (chunk("hi", finish="stop", usage=None), {"choices": [], "usage": USAGE}):
        assert assembly.take(data) == data
    assert assembly.document["usage"] == USAGE


def test_usage_in_a_chunk_that_says_something_is_taken_out_of_it() -> None:
    assembly = Assembly(hides_usage=True)
    assert assembly.take(chunk("hi", finish="stop", usage=USAGE)) == chunk("hi", finish="stop")
    assert assembly.document["usage"] == USAGE


def test_a_chat_completion_is_whole_when_each_of_its_choices_has_ended() -> None:
    assembly = Assembly(hides_usage=True)
    assert not assembly.is_whole
    for data in (chunk("a"), chunk("b", index=1), chunk(finish="stop")):
        assembly.take(data)
        assert not assembly.is_whole
    assembly.take(chunk(finish="length", index=1))
    assert assembly.is_whole
    assert assembly.raw == b"null"


@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
def test_a_response_is_whole_with_its_last_event_which_is_the_answer(end: str) -> None:
    assembly = Assembly(hides_usage=False)
    assembly.take({"type": "response.created", "response": {"id": "r", "usage": None}})
    assembly.take({"type": "response.output_text.delta", "delta": "hello"})
    assert not assembly.is_whole
    response = {"id": "r", "model": "gpt-4o-mini", "usage": {"input_tokens": 1, "output_tokens": 2}}
    assembly.take({"type": f"response.{end}", "response": response})
    assert assembly.is_whole
    assert json.loads(assembly.raw) == assembly.document == response


def test_an_image_is_whole_with_its_last_event_and_says_what_it_used() -> None:
    assembly = Assembly(hides_usage=False)
    assembly.take({"type": "image_generation.partial_image", "b64_json": "AAAA"})
    assert not assembly.is_whole
    assembly.take({"type": "image_generation.completed", "b64_json": "AAAA", "usage": USAGE})
    assert assembly.is_whole
    assert assembly.document["usage"] == USAGE


def test_what_has_come_is_estimated_by_its_text_and_nothing_is_nothing() -> None:
    assembly = Assembly(hides_usage=True)
    assert assembly.output_tokens is None
    for _ in range(10):
        assembly.take(chunk(" several words"))
    assert assembly.output_tokens == pytest.approx(20, rel=0.3)
    assert "usage" not in assembly.document


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"error": {"message": "no"}}, {"message": "no"}),
        ({"type": "error", "code": "x", "message": "no"}, {"type": "error", "code": "x", "message": "no"}),
        ({"error": None, "choices": []}, None),
        ({"type": "response.failed", "response": {"error": {"code": "x"}}}, None),
        ({}, None),
    ],
)
def test_an_error_in_place_of_a_chunk_is_found(data: dict[str, Any], found: object) -> None:
    assert error_in(data) == found


@pytest.mark.parametrize(
    "data",
    [
        {"choices": None},
        {"choices": "x"},
        {"choices": [1, None]},
        {"choices": [{}]},
        {"choices": [{"index": []}]},
        {"delta": 3},
        {"type": []},
        {"type": {}},
        {},
    ],
)
def test_a_chunk_of_any_shape_is_passed_on(data: dict[str, Any]) -> None:
    assert Assembly(hides_usage=True).take(data) == data


def test_what_a_long_stream_has_is_estimated_from_parts_that_are_spread_over_it() -> None:
    few, many = Assembly(hides_usage=False), Assembly(hides_usage=False)
    for number in range(20 * MOST_DELTAS):
        many.take(chunk(" hello"))
        if number < MOST_DELTAS:
            few.take(chunk(" hello"))
    assert few.output_tokens is not None
    assert many.output_tokens == pytest.approx(20 * few.output_tokens, rel=0.1)

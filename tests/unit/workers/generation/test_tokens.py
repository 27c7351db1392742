"""Tokens: estimated from a request of any shape, and read from an answer of any shape."""

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.generation import tokens
from workers.generation.tokens import (
    DEFAULT_OUTPUT_TOKENS,
    LARGEST_ESTIMATE,
    MOST_VALUES,
    TOKENS_PER_ATTACHMENT,
    TOKENS_PER_SMALL_IMAGE,
    OutputAverages,
    estimate,
    estimate_input,
    estimate_text,
)

HELLO: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
HELLO_INPUT = estimate_input(HELLO)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/" + "a" * 5000}},
        {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 5000},
        {"type": "input_audio", "input_audio": {"data": "A" * 5000, "format": "wav"}},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 5000},
        {"type": "file", "file": {"file_id": "file-1"}},
    ],
    ids=lambda part: part["type"],
)
def test_an_image_a_recording_and_a_file_are_no_text(part: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}, part]}]}
    assert TOKENS_PER_ATTACHMENT <= estimate_input(body) < TOKENS_PER_ATTACHMENT + 20


def test_a_small_image_costs_less() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    small = estimate_input({"messages": [{"role": "user", "content": [image]}]})
    assert TOKENS_PER_SMALL_IMAGE <= small < TOKENS_PER_SMALL_IMAGE + 20


def test_the_names_in_a_tools_schema_count_and_the_models_own_name_does_not() -> None:
    properties = {f"a_rather_long_name_{number}": {"type": "string"} for number in range(20)}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}
    assert estimate_input(HELLO | {"tools": [tool]}) > HELLO_INPUT + 200
    assert estimate_input(HELLO | {"model": "a-model-" * 50, "user": "u" * 500}) == HELLO_INPUT


def test_a_prompt_that_comes_as_token_numbers_has_as_many() -> None:
    assert estimate_input({"input": list(range(1000))}) == pytest.approx(1000, abs=5)


def lines_run(body: Any) -> int:
    """Lines of the module that estimating a body runs; what is collected meanwhile runs others."""
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace if frame.f_code.co_filename == tokens.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        estimate_input(body)
    finally:
        sys.settrace(before)
    return lines


def test_token_numbers_are_counted_without_a_look_at_each() -> None:
    assert lines_run({"input": [7] * 100_000}) == lines_run({"input": [7]})


def test_a_text_among_token_numbers_counts() -> None:
    assert estimate_input({"input": [*range(1000), "word " * 5000, *range(1000)]}) > 6000


def test_an_answer_that_is_an_image_is_no_text() -> None:
    assert estimate_text({"data": [{"b64_json": "A" * 1_000_000}]}) < 2 * TOKENS_PER_ATTACHMENT


def test_a_value_of_any_depth_is_read() -> None:
    value: Any = "hello"
    for _ in range(MOST_VALUES // 2):
        value = [value]
    assert estimate_text(value) < 10


MANY: dict[str, Any] = {
    "texts": "a",
    "Chinese texts": "\u597d",
    "long texts": "Many words of a text that is an ordinary one. " * 5,
    "numbers among texts": [7, "a"],
    "lists": [],
    "objects": {},
    "messages": {"role": "user", "content": "hello"},
    "pictures": {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    "nothing": None,
    "numbers of any size": [10**30, ""],
}


@pytest.mark.parametrize("value", MANY.values(), ids=MANY)
def test_many_small_values_take_no_more_steps_and_are_never_estimated_at_fewer(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"input": [value] * (2 * MOST_VALUES), "more": [value] * (2 * MOST_VALUES)}
    assert lines_run(body) <= lines_run({"input": body["input"][:MOST_VALUES]}) + 100
    bounded = estimate_input(body)
    monkeypatch.setattr(tokens, "MOST_VALUES", sys.maxsize)
    assert bounded >= estimate_input(body)


def test_an_inline_image_is_a_fixed_number_whatever_its_size() -> None:
    def with_image(size: int) -> dict[str, Any]:
        url = {"url": "data:image/png;base64," + "A" * size}
        return {"messages": [{"content": [url]}]}

    assert estimate_input(with_image(1_000_000)) == estimate_input(with_image(10))
    assert TOKENS_PER_ATTACHMENT <= estimate_input(with_image(10)) < TOKENS_PER_ATTACHMENT + 20


@pytest.mark.parametrize("start", ["data: ", "data:", "data:text/plain,", ";base64,"])
def test_text_that_begins_like_an_attachment_is_still_text(start: str) -> None:
    assert estimate_input({"input": start + "word " * 80_000}) == pytest.approx(80_000, rel=0.3)


@given(JSON)
def test_any_body_has_an_estimate_of_at_least_one(body: Any) -> None:
    assert estimate_input(body) >= 1


@given(st.text(max_size=200), st.text(max_size=200))
def test_more_text_is_never_fewer_tokens(text: str, more: str) -> None:
    assert estimate_input({"input": f"x{text}"}) <= estimate_input({"input": f"x{text}{more}"})


@pytest.mark.parametrize(
    ("changes", "output"),
    [
        ({}, DEFAULT_OUTPUT_TOKENS),
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 60}, 60),
        ({"max_output_tokens": 70}, 70),
        ({"max_tokens": 50, "max_completion_tokens": 40}, 40),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": -5}, 0),
        ({"max_tokens": "50"}, DEFAULT_OUTPUT_TOKENS),
        ({"max_tokens": None}, DEFAULT_OUTPUT_TOKENS),
        ({"max_tokens": 50, "n": 3}, 150),
        ({"n": 2}, 2 * DEFAULT_OUTPUT_TOKENS),
        ({"max_tokens": 50, "n": 128}, 6400),
        ({"max_tokens": 50, "n": 0}, 50),
        ({"max_tokens": 50, "n": 1_000_000}, 50),
        ({"max_tokens": 50, "n": "3"}, 50),
    ],
)
def test_the_output_is_taken_for_its_bound_or_else_for_the_average(
    changes: dict[str, Any], output: int
) -> None:
    total = estimate("/chat/completions", HELLO | changes, OutputAverages(), HELLO_INPUT).tokens
    assert total == pytest.approx(HELLO_INPUT + output, abs=3)


@pytest.mark.parametrize(
    "changes", [{"max_tokens": 2**63 - 1}, {"max_tokens": 2**63 - 1, "n": 128}, {"max_output_tokens": 10**40}]
)
def test_an_absurd_bound_is_no_absurd_estimate(changes: dict[str, Any]) -> None:
    estimated = estimate("/chat/completions", HELLO | changes, OutputAverages(), HELLO_INPUT)
    assert estimated.tokens == LARGEST_ESTIMATE


@pytest.mark.parametrize("path", ["/embeddings", "/moderations"])
def test_where_there_is_no_output_only_the_input_counts(path: str) -> None:
    body = {"model": "text-embedding-3-small", "input": "x" * 400, "max_tokens": 5000}
    assert estimate(path, body, OutputAverages(), 123).tokens == 123


@given(
    st.sampled_from(["/chat/completions", "/responses", "/images/generations"]),
    st.dictionaries(
        st.sampled_from(["model", "n", "max_tokens", "max_output_tokens", "messages", "input"]), JSON
    ),
)
def test_any_request_has_an_estimate(path: str, body: dict[str, Any]) -> None:
    estimated = estimate(path, body, OutputAverages(), estimate_input(body))
    assert 1 <= estimated.input_tokens <= estimated.tokens <= LARGEST_ESTIMATE


def test_a_models_answers_are_learnt_from() -> None:
    averages = OutputAverages()
    averages.learn("o3", 2000)
    assert averages.expected("o3") == 2000
    averages.learn("o3", 1000)
    assert averages.expected("o3") == 1900
    assert averages.expected("gpt-4o-mini") == DEFAULT_OUTPUT_TOKENS


def test_after_a_change_the_average_gets_there() -> None:
    averages = OutputAverages()
    for completion in [2000] * 5 + [100] * 100:
        averages.learn("o3", completion)
    assert averages.expected("o3") == 100

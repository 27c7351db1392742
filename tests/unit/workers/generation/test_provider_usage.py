"""What the provider says that a call used."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Outcome, Path, Usage
from infra.bounds import LONGEST_MODEL, MOST_NANOUSD, MOST_TOKENS
from infra.prices import Price, set_by_hand
from tests.builders import NOW, make_envelope, make_key
from workers.generation.answers import Answer, Failure
from workers.generation.classification import MODEL_UNAVAILABLE
from workers.generation.provider_usage import model_of, untrue_usage, usage_of
from workers.generation.reading import Request
from workers.generation.spending import LONGEST_CODE, answered, failed
from workers.keys.pool import Reservation

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)

REQUEST = Request(
    make_envelope(),
    Path.CHAT_COMPLETIONS,
    {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]},
    None,
    NOW + 60,
    12,
)
RESERVED = Reservation(make_key(), int(NOW), 50, "gpt-4o-mini", "worker-1", 0.0)


def answer_of(document: dict[str, Any]) -> Answer:
    return Answer(b"{}", document, 200, 5)


CHAT = {
    "prompt_tokens": 19,
    "completion_tokens": 27,
    "total_tokens": 46,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
RESPONSES = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 123,
}
IMAGES = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens": 50,
    "total_tokens": 100,
}


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (CHAT, (19, 27, 46, 8, 20)),
        (RESPONSES, (36, 87, 123, 4, 64)),
        (IMAGES, (50, 50, 100, 0, 0)),
        ({"prompt_tokens": 8, "total_tokens": 8}, (8, 0, 8, 0, 0)),
        ({"prompt_tokens": 8, "completion_tokens": 2}, (8, 2, 10, 0, 0)),
        ({"completion_tokens": 2}, (0, 2, 2, 0, 0)),
        ({"prompt_tokens": 8}, (8, 0, 8, 0, 0)),
        (CHAT | {"prompt_tokens_details": None, "completion_tokens_details": []}, (19, 27, 46, 0, 0)),
        (CHAT | {"total_tokens": "46"}, (19, 27, 46, 8, 20)),
        (CHAT | {"prompt_tokens_details": {"cached_tokens": True}}, (19, 27, 46, 0, 20)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (0, 0, 0, 0, 0)),
    ],
)
def test_the_providers_count_is_read(usage: Any, counts: tuple[int, ...]) -> None:
    read = usage_of({"id": "x", "usage": usage})
    assert read is not None
    assert counts == (
        read.prompt_tokens,
        read.completion_tokens,
        read.total_tokens,
        read.cached_tokens,
        read.reasoning_tokens,
    )


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"usage": None},
        {"usage": []},
        {"usage": "46 tokens"},
        {"usage": 46},
        {"usage": {}},
        {"usage": {"total_tokens": 46}},
        {"usage": {"prompt_tokens": "19", "completion_tokens": 2.5}},
        {"usage": {"prompt_tokens": True, "completion_tokens": None}},
    ],
)
def test_where_the_provider_does_not_say_there_is_no_count(answer: dict[str, Any]) -> None:
    assert usage_of(answer) is None


USAGES = st.dictionaries(
    st.sampled_from([*CHAT, *RESPONSES]),
    JSON | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), JSON),
)


@given(st.dictionaries(st.just("usage"), JSON | USAGES))
def test_any_answer_is_read_to_a_valid_count_or_none(answer: dict[str, Any]) -> None:
    read = usage_of(answer)
    assert read is None or Usage.model_validate(read.model_dump()) == read


UNTRUE = [
    CHAT | {"prompt_tokens": 2**63},
    CHAT | {"prompt_tokens": 2**63 - 1},
    CHAT | {"completion_tokens": -1},
    CHAT | {"completion_tokens": 1e300},
    CHAT | {"completion_tokens": float("nan")},
    CHAT | {"total_tokens": MOST_TOKENS + 1},
    CHAT | {"prompt_tokens_details": {"cached_tokens": 2**70}},
    RESPONSES | {"output_tokens_details": {"reasoning_tokens": -5}},
    {"prompt_tokens": MOST_TOKENS, "completion_tokens": 1},
]


@pytest.mark.parametrize("usage", UNTRUE)
def test_where_one_count_cannot_be_true_none_counts_and_the_books_say_why(usage: dict[str, Any]) -> None:
    answer = {"model": "gpt-4o-mini", "usage": usage}
    assert usage_of(answer) is None
    problem = untrue_usage(answer)
    assert problem is not None
    assert "provider" in problem
    record, settlement = answered(REQUEST, RESERVED, answer_of(answer), 1, NOW)
    assert (record.tokens_estimated, record.usage_problem) == (True, problem)
    assert 0 < record.usage.total_tokens == settlement.used < 1000


@pytest.mark.parametrize("usage", [CHAT, {}, None, "46", {"total_tokens": 2**63}])
def test_what_may_be_true_or_says_nothing_is_no_problem(usage: Any) -> None:
    assert untrue_usage({"usage": usage}) is None


@pytest.mark.parametrize("model", ["", "x" * (LONGEST_MODEL + 1), "\ud800", 5, None])
def test_a_model_that_has_no_name_is_taken_for_the_one_that_was_asked_for(model: object) -> None:
    answer = {"model": model, "usage": CHAT}
    assert model_of(answer) is None
    record, _ = answered(REQUEST, RESERVED, answer_of(answer), 1, NOW)
    assert record.model == "gpt-4o-mini"
    assert (record.usage_problem is not None) == isinstance(model, str)
    assert record.usage.total_tokens == 46


def test_a_cost_that_cannot_be_true_is_not_booked_and_the_books_say_so() -> None:
    answer = answer_of({"model": "dear", "usage": CHAT})
    set_by_hand({"dear": Price(MOST_NANOUSD * 10**6, 0, 0)})
    try:
        record, settlement = answered(REQUEST, RESERVED, answer, 1, NOW)
    finally:
        set_by_hand({})
    assert (record.cost.nanousd, record.cost.known, settlement.cost_nanousd) == (0, False, 0)
    assert record.usage_problem is not None
    assert "cost" in record.usage_problem


def test_what_a_provider_and_a_request_call_things_is_bounded_in_the_books() -> None:
    request = replace(REQUEST, body={"model": "m" * 5000})
    failure = Failure(MODEL_UNAVAILABLE, "no such model", 5, 404, "c" * 5000 + "\ud800")
    record, _ = failed(request, RESERVED, failure, 1, NOW)
    assert record.outcome is Outcome.MODEL_UNAVAILABLE
    assert (record.model, len(record.error_code or "")) == ("unknown", LONGEST_CODE)

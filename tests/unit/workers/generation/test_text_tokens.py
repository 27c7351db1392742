"""Estimates of tokens beside true counts of two tokenizers, for texts of many languages and formats.

The counts are `gpt-tokenizer`'s (npm, 4.0.0), which has the vocabularies of OpenAI's models as data.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.generation.text_tokens import MOST_READ, text_tokens
from workers.generation.tokens import MOST_VALUES, TOKENS_PER_MESSAGE, estimate_input

REFERENCES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "reference_texts.json").read_text())
MODELS = {"o200k_base": "gpt-4o-mini", "cl100k_base": "gpt-4-turbo"}


@pytest.mark.parametrize("vocabulary", MODELS)
@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: reference["name"])
def test_the_estimate_is_right_within_a_factor_of_two(reference: dict[str, Any], vocabulary: str) -> None:
    true = reference[vocabulary]
    assert true / 2 <= text_tokens(reference["text"], MODELS[vocabulary]) <= true * 2


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: reference["name"])
def test_a_text_of_any_size_is_estimated_alike(reference: dict[str, Any]) -> None:
    times = 200_000 // len(reference["text"]) + 1
    true = reference["o200k_base"] * times
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": reference["text"] * times}]}
    assert true / 2 <= estimate_input(body) <= true * 2


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: reference["name"])
def test_many_messages_are_estimated_like_few(reference: dict[str, Any]) -> None:
    times = 2 * MOST_VALUES
    message = {"role": "user", "content": reference["text"]}
    true = (reference["o200k_base"] + TOKENS_PER_MESSAGE + 1) * times
    assert true / 2 <= estimate_input({"model": "gpt-5", "messages": [message] * times}) <= true * 2


@pytest.mark.parametrize(
    ("model", "is_older"),
    [
        ("gpt-4", True),
        ("gpt-4-turbo-2024-04-09", True),
        ("gpt-3.5-turbo", True),
        ("text-embedding-3-small", True),
        ("gpt-4o", False),
        ("gpt-4.1-mini", False),
        ("o3", False),
        (None, False),
    ],
)
def test_the_vocabulary_is_the_models(model: str | None, *, is_older: bool) -> None:
    hindi = next(reference for reference in REFERENCES if reference["name"] == "hindi")
    vocabulary = "cl100k_base" if is_older else "o200k_base"
    assert text_tokens(hindi["text"], model) == pytest.approx(hindi[vocabulary], rel=0.5)


@given(st.text(st.characters(), max_size=50), st.text(st.characters(), max_size=50))
def test_more_text_is_never_fewer_tokens(text: str, more: str) -> None:
    assert 0 <= text_tokens(text) <= text_tokens(text + more)


def test_of_a_large_text_only_samples_are_read() -> None:
    words, digits = "word " * MOST_READ, "12345 " * MOST_READ
    mixed = text_tokens(words + digits)
    assert mixed == pytest.approx(text_tokens(words) + text_tokens(digits), rel=0.1)

"""What the span of a provider call tells: facts of the call, and no texts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Path
from tests.builders import NOW, make_envelope, make_key
from workers.generation import genai
from workers.generation.answers import Answer, Failure
from workers.generation.classification import AUTH_FAILED, BAD_RESPONSE, CONNECTION_ERROR, TIMEOUT
from workers.generation.reading import Request


def request(body: dict[str, Any], path: Path = Path.CHAT_COMPLETIONS) -> Request:
    return Request(make_envelope(), path, body, "u-42", NOW + 60, 10)


@pytest.mark.parametrize(
    ("path", "model", "name"),
    [
        (Path.CHAT_COMPLETIONS, "gpt-4o-mini", "chat gpt-4o-mini"),
        (Path.RESPONSES, "gpt-4o", "chat gpt-4o"),
        (Path.EMBEDDINGS, "text-embedding-3-small", "embeddings text-embedding-3-small"),
        (Path.IMAGES, "gpt-image-1", "generate_content gpt-image-1"),
        (Path.MODERATIONS, None, "moderation"),
    ],
)
def test_a_span_is_named_for_its_operation_and_its_model(path: Path, model: str | None, name: str) -> None:
    assert genai.span_name(request({"model": model}, path)) == name


def test_before_the_call_its_parameters_and_its_server_are_known() -> None:
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "secret"}],
        "temperature": 0.2,
        "max_completion_tokens": 50,
        "n": 2,
        "stream": True,
        "user": "u-42",
    }
    assert genai.asked(request(body), make_key(base_url="https://user:pw@provider.test/v1")) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.2,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.choice.count": 2,
        "server.address": "provider.test",
        "server.port": 443,
        "keyway.key": "Primary",
    }


@pytest.mark.parametrize("odd", ["0.2", True, None, [0.2], {"a": 1}, 10**30, -(10**30)])
def test_a_parameter_that_is_no_number_or_too_large_for_a_span_is_left_out(odd: object) -> None:
    assert "gen_ai.request.seed" not in genai.asked(request({"seed": odd}), make_key())


def test_an_answer_tells_its_model_its_tokens_and_why_it_ended() -> None:
    document = {
        "id": "chatcmpl-1",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"finish_reason": "stop", "message": {"content": "secret"}}, {"finish_reason": "length"}],
        "usage": {
            "prompt_tokens": 19,
            "completion_tokens": 27,
            "total_tokens": 46,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    }
    assert genai.answered(Answer(b"", document, 200, 803)) == {
        "http.response.status_code": 200,
        "keyway.outcome": "ok",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.finish_reasons": ["stop", "length"],
        "gen_ai.usage.input_tokens": 19,
        "gen_ai.usage.output_tokens": 27,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 5,
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "model", "choices", "usage"), json_values)))
def test_of_an_odd_answer_only_what_fits_into_a_span_is_told(document: dict[str, Any]) -> None:
    for value in genai.answered(Answer(b"", document, 200, 1)).values():
        assert isinstance(value, str | list) or abs(value) <= genai.LARGEST_INTEGER


@pytest.mark.parametrize(
    ("failure", "status", "outcome", "error_type"),
    [
        (Failure(AUTH_FAILED, "secret", 1, 401, "invalid_api_key"), 401, "auth_failed", "invalid_api_key"),
        (Failure(AUTH_FAILED, "secret", 1, 403), 403, "auth_failed", "403"),
        (Failure(BAD_RESPONSE, "secret", 1, 200), 200, str(BAD_RESPONSE.outcome), str(BAD_RESPONSE.outcome)),
        (Failure(TIMEOUT, "secret", 1), None, str(TIMEOUT.outcome), str(TIMEOUT.outcome)),
        (
            Failure(CONNECTION_ERROR, "secret", 1),
            None,
            str(CONNECTION_ERROR.outcome),
            str(CONNECTION_ERROR.outcome),
        ),
    ],
)
def test_a_failure_tells_its_kind_and_not_its_text(
    failure: Failure, status: int | None, outcome: str, error_type: str
) -> None:
    expected = {"keyway.outcome": outcome} | ({} if status is None else {"http.response.status_code": status})
    assert genai.failed(failure) == expected
    assert genai.error_type(failure) == error_type

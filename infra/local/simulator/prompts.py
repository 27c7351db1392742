"""What a request asks for: its checks, as OpenAI makes them, and its token count."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from infra.local.simulator.rejections import CONTENT_POLICY, NO_MODEL, NOT_JSON, Rejection, bad_parameter

#: A user who writes this gets a content policy violation.
REJECTED_WORDS = "[content-policy]"
CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 3


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a path takes."""

    #: The parameter without which there is nothing to do, and its types.
    parameter: str
    types: tuple[type, ...]
    #: The models' word for "at most so many tokens"; the first that is there counts.
    caps: tuple[str, ...] = ()
    #: Other parameters that are whole numbers from 1 to this.
    counts: Mapping[str, int] = field(default_factory=dict)
    #: Without one, `model` is required.
    default_model: str | None = None
    streams: bool = False


ENDPOINTS = {
    "/chat/completions": Endpoint(
        "messages", (list,), caps=("max_completion_tokens", "max_tokens"), counts={"n": 128}, streams=True
    ),
    "/responses": Endpoint("input", (str, list), caps=("max_output_tokens",), streams=True),
    "/embeddings": Endpoint("input", (str, list), counts={"dimensions": 3072}),
    "/moderations": Endpoint("input", (str, list), default_model="omni-moderation-latest"),
    "/images/generations": Endpoint("prompt", (str,), counts={"n": 10}, default_model="gpt-image-1"),
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request that is in order."""

    path: str
    body: dict[str, Any]
    model: str
    stream: bool
    tokens: int
    #: How many answers are wanted.
    choices: int
    #: The most tokens that each may have.
    max_completion: int | None
    #: What the user wrote last.
    last_words: str


def read_prompt(path: str, raw: bytes) -> Prompt | Rejection:
    """Check a body for one of `ENDPOINTS`."""
    endpoint = ENDPOINTS[path]
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return NOT_JSON
    if not isinstance(body, dict):
        return NOT_JSON
    model = body.get("model", endpoint.default_model)
    if not isinstance(model, str) or not model:
        return NO_MODEL
    if wrong := _check(endpoint, body):
        return wrong
    texts = _texts(path, body)
    written = [text for role, text in texts if role == "user"]
    if any(REJECTED_WORDS in text for text in written):
        return CONTENT_POLICY
    return Prompt(
        path=path,
        body=body,
        model=model,
        stream=endpoint.streams and body.get("stream") is True,
        tokens=_count_tokens(path, body, [text for _, text in texts]),
        choices=body.get("n") or 1,
        max_completion=next((body[cap] for cap in endpoint.caps if body.get(cap) is not None), None),
        last_words=written[-1] if written else "",
    )


def _check(endpoint: Endpoint, body: dict[str, Any]) -> Rejection | None:
    name = endpoint.parameter
    value = body.get(name)
    if value is None:
        return bad_parameter(name, "missing_required_parameter", f"Missing required parameter: '{name}'.")
    if not isinstance(value, endpoint.types):
        return bad_parameter(name, "invalid_type", f"Invalid type for '{name}'.")
    if value == []:
        return bad_parameter(
            name, "empty_array", f"Invalid '{name}': expected an array with minimum length 1."
        )
    for count, most in (*((cap, math.inf) for cap in endpoint.caps), *endpoint.counts.items()):
        asked = body.get(count)
        if asked is not None and not (isinstance(asked, int) and 1 <= asked <= most):
            return bad_parameter(count, "invalid_value", f"Invalid value for '{count}'.")
    return None


def _texts(path: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    """(role, text) of all that is said in the request."""
    match path:
        case "/chat/completions":
            return [_message(message) for message in body["messages"]]
        case "/responses":
            said = body["input"]
            texts = [("user", said)] if isinstance(said, str) else [_message(item) for item in said]
            instructions = body.get("instructions")
            return [("system", instructions), *texts] if isinstance(instructions, str) else texts
        case "/images/generations":
            return [("user", body["prompt"])]
        case _:
            said = body["input"]
            return [
                ("input", text)
                for text in ([said] if isinstance(said, str) else said)
                if isinstance(text, str)
            ]


def _message(message: Any) -> tuple[str, str]:
    if not isinstance(message, dict):
        return "", ""
    content = message.get("content", message.get("output"))
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(part for part in parts if isinstance(part, str))
    return str(message.get("role", "")), content if isinstance(content, str) else ""


def _count_tokens(path: str, body: dict[str, Any], texts: list[str]) -> int:
    if path == "/moderations":
        return 0  # free, and without `usage`
    tokens = -(-sum(map(len, texts)) // CHARACTERS_PER_TOKEN)
    if path in {"/chat/completions", "/responses"}:
        tokens += TOKENS_PER_MESSAGE * len(texts)
    elif path == "/embeddings" and isinstance(body["input"], list):
        tokens += sum(_length(item) for item in body["input"])
    return max(1, tokens)


def _length(item: Any) -> int:
    """Tokens that came as numbers."""
    if isinstance(item, list):
        return len(item)
    return 1 if isinstance(item, int) else 0

"""The provider's good answers in OpenAI's JSON: the same for the same request, but for ids and times."""

import base64
import math
from array import array
from dataclasses import dataclass
from hashlib import shake_256
from typing import Any, TypeAlias

import orjson

from infra.local.simulator.prompts import CHARACTERS_PER_TOKEN, Prompt
from infra.local.simulator.samples import sample

Json: TypeAlias = dict[str, Any]

SNAPSHOTS = {"gpt-4o": "gpt-4o-2024-08-06", "gpt-4o-mini": "gpt-4o-mini-2024-07-18"}
MODELS = (*SNAPSHOTS, *SNAPSHOTS.values(), "gpt-image-1", "omni-moderation-latest", "text-embedding-3-small")
MODELS_CREATED = 1_715_367_049
ECHOED_CHARACTERS = 1000
EMBEDDING_DIMENSIONS = 1536
IMAGE_TOKENS = 272
#: One grey pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
MODERATION_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says."""

    #: The content, or the arguments of the tool call.
    text: str
    tool: str | None = None
    #: A forced tool call ends with `stop`, a chosen one with `tool_calls`.
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """What `usage` says."""

    prompt: int
    completion: int
    #: The model was stopped by the request's own maximum.
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Stamp:
    """What differs between two answers to the same request."""

    #: Hexadecimal; becomes part of every id.
    ident: str
    created: int


def compose(prompt: Prompt) -> Reply:
    """What the model says to this prompt."""
    body = prompt.body
    if tool := _called_tool(body):
        arguments = sample(tool.get("parameters") or {"type": "object"})
        return Reply(
            orjson.dumps(arguments).decode(), str(tool["name"]), forced=body["tool_choice"] != "required"
        )
    words = prompt.last_words
    echo = words if len(words) <= ECHOED_CHARACTERS else f"{words[:ECHOED_CHARACTERS]}…"
    text = f"Hello! This answer is simulated. You wrote: {echo}"
    form = _format(body)
    if form.get("type") == "json_schema":
        text = orjson.dumps(sample(form.get("json_schema", form)["schema"])).decode()
    elif form.get("type") == "json_object":
        text = orjson.dumps({"answer": text}).decode()
    return Reply(text)


def _called_tool(body: Json) -> Json | None:
    """The function that the request says must be called."""
    choice = body.get("tool_choice")
    functions = [tool.get("function", tool) for tool in body.get("tools") or () if tool["type"] == "function"]
    if isinstance(choice, dict):
        name = choice.get("function", choice).get("name")
        functions = [function for function in functions if function["name"] == name]
    elif choice != "required":
        return None
    return functions[0] if functions else None


def _format(body: Json) -> Json:
    """The format that is asked for: `text.format` of a response, `response_format` of a chat completion."""
    text = body.get("text")
    form: Json | None = text.get("format") if isinstance(text, dict) else body.get("response_format")
    return form or {}


def natural_tokens(prompt: Prompt, reply: Reply) -> int:
    """How long the reply is, when the script does not say."""
    if prompt.path == "/images/generations":
        return IMAGE_TOKENS
    return max(1, -(-len(reply.text) // CHARACTERS_PER_TOKEN))


def charge(prompt: Prompt, completion: int) -> Tokens:
    """What the call costs when the model would write so many tokens per choice."""
    if prompt.path in {"/embeddings", "/moderations"}:
        return Tokens(prompt.tokens, 0)
    most = prompt.max_completion
    if most is not None and completion > most:
        return Tokens(prompt.tokens, most * prompt.choices, capped=True)
    return Tokens(prompt.tokens, completion * prompt.choices)


def answer(prompt: Prompt, reply: Reply, tokens: Tokens, stamp: Stamp) -> Json:
    """The body of a 200."""
    match prompt.path:
        case "/chat/completions":
            return _chat_completion(prompt, reply, tokens, stamp)
        case "/responses":
            return response(prompt, reply, tokens, stamp)
        case "/embeddings":
            return _embeddings(prompt, tokens)
        case "/moderations":
            return _moderations(prompt, stamp)
        case _:
            return _images(prompt, tokens, stamp)


def models(denied: frozenset[str]) -> Json:
    """The body of `GET /models`."""
    return {
        "object": "list",
        "data": [
            {"id": model, "object": "model", "created": MODELS_CREATED, "owned_by": "system"}
            for model in MODELS
            if model not in denied
        ],
    }


def finish_reason(reply: Reply, tokens: Tokens) -> str:
    """Why a chat completion ended."""
    if tokens.capped:
        return "length"
    return "tool_calls" if reply.tool and not reply.forced else "stop"


def chat_usage(tokens: Tokens) -> Json:
    """`usage` of a chat completion."""
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _chat_completion(prompt: Prompt, reply: Reply, tokens: Tokens, stamp: Stamp) -> Json:
    message: Json = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
    if reply.tool:
        call = {"name": reply.tool, "arguments": reply.text}
        message["content"] = None
        message["tool_calls"] = [{"id": f"call_{stamp.ident}", "type": "function", "function": call}]
    reason = finish_reason(reply, tokens)
    return {
        "id": f"chatcmpl-{stamp.ident}",
        "object": "chat.completion",
        "created": stamp.created,
        "model": SNAPSHOTS.get(prompt.model, prompt.model),
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
            for index in range(prompt.choices)
        ],
        "usage": chat_usage(tokens),
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }


def output_item(reply: Reply, stamp: Stamp, status: str) -> Json:
    """What a response puts out: a message, or the call of a function."""
    if reply.tool:
        return {
            "id": f"fc_{stamp.ident}",
            "type": "function_call",
            "status": status,
            "call_id": f"call_{stamp.ident}",
            "name": reply.tool,
            "arguments": reply.text,
        }
    return {
        "id": f"msg_{stamp.ident}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [output_text(reply.text)],
    }


def output_text(text: str) -> Json:
    """The content of a response's message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response(prompt: Prompt, reply: Reply, tokens: Tokens, stamp: Stamp) -> Json:
    """A whole response; what the request said of itself is repeated in it."""
    body = prompt.body
    status = "incomplete" if tokens.capped else "completed"
    return {
        "id": f"resp_{stamp.ident}",
        "object": "response",
        "created_at": stamp.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if tokens.capped else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": prompt.max_completion,
        "metadata": body.get("metadata") or {},
        "model": SNAPSHOTS.get(prompt.model, prompt.model),
        "output": [output_item(reply, stamp, status)],
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [{"strict": True, "parameters": None, **tool} for tool in body.get("tools") or ()],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": tokens.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens.prompt + tokens.completion,
        },
        "user": body.get("user"),
    }


def _embeddings(prompt: Prompt, tokens: Tokens) -> Json:
    said = prompt.body["input"]
    alone = isinstance(said, str) or isinstance(said[0], int)
    dimensions = prompt.body.get("dimensions") or EMBEDDING_DIMENSIONS
    encoding = prompt.body.get("encoding_format", "float")
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _embedding(one, dimensions, encoding)}
            for index, one in enumerate([said] if alone else said)
        ],
        "model": prompt.model,
        "usage": {"prompt_tokens": tokens.prompt, "total_tokens": tokens.prompt},
    }


def _embedding(said: Any, dimensions: int, encoding: str) -> list[float] | str:
    """A vector of length 1 that differs from text to text."""
    raw = [byte - 127.5 for byte in shake_256(orjson.dumps(said)).digest(dimensions)]
    length = math.hypot(*raw)
    vector = array("f", [value / length for value in raw])
    return base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector.tolist()


def _moderations(prompt: Prompt, stamp: Stamp) -> Json:
    said = prompt.body["input"]
    several = isinstance(said, list) and isinstance(said[0], str)
    result = {
        "flagged": False,
        "categories": dict.fromkeys(MODERATION_CATEGORIES, False),
        "category_scores": dict.fromkeys(MODERATION_CATEGORIES, 0.0001),
        "category_applied_input_types": {name: ["text"] for name in MODERATION_CATEGORIES},
    }
    return {
        "id": f"modr-{stamp.ident}",
        "model": prompt.model,
        "results": [result] * (len(said) if several else 1),
    }


def _images(prompt: Prompt, tokens: Tokens, stamp: Stamp) -> Json:
    return {
        "created": stamp.created,
        "background": "opaque",
        "output_format": "png",
        "quality": "low",
        "size": "1024x1024",
        "data": [{"b64_json": PNG}] * prompt.choices,
        "usage": {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"text_tokens": tokens.prompt, "image_tokens": 0},
            "output_tokens": tokens.completion,
            "total_tokens": tokens.prompt + tokens.completion,
        },
    }

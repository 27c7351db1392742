"""The provider's streamed answers: the same replies as server-sent events, in OpenAI's order."""

import re
from dataclasses import replace
from typing import Any

import orjson

from infra.local.simulator.answers import (
    SNAPSHOTS,
    Json,
    Reply,
    Stamp,
    Tokens,
    chat_usage,
    finish_reason,
    output_item,
    output_text,
    response,
)
from infra.local.simulator.prompts import Prompt

#: A word with the space after it, or a part of a long one: what a chunk carries.
PIECE = re.compile(r"\S{1,12}\s*|\s+")


def frames(prompt: Prompt, reply: Reply, tokens: Tokens, stamp: Stamp, *, usage: bool) -> list[bytes]:
    """The whole stream, one event an item; with `usage` false it does not say what it cost."""
    if prompt.path == "/chat/completions":
        return _chat_frames(prompt, reply, tokens, stamp, usage=usage)
    return [
        b"event: %b\ndata: %b\n\n"
        % (event["type"].encode(), orjson.dumps({**event, "sequence_number": number}))
        for number, event in enumerate(_response_events(prompt, reply, tokens, stamp, usage=usage))
    ]


def _chat_frames(prompt: Prompt, reply: Reply, tokens: Tokens, stamp: Stamp, *, usage: bool) -> list[bytes]:
    options = prompt.body.get("stream_options")
    usage = usage and isinstance(options, dict) and options.get("include_usage") is True
    head: Json = {
        "id": f"chatcmpl-{stamp.ident}",
        "object": "chat.completion.chunk",
        "created": stamp.created,
        "model": SNAPSHOTS.get(prompt.model, prompt.model),
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }
    if usage:
        head["usage"] = None
    chunks = [
        {**head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        for delta, reason in _deltas(reply, tokens, stamp)
        for index in range(prompt.choices)
    ]
    if usage:
        chunks.append({**head, "choices": [], "usage": chat_usage(tokens)})
    return [*(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks), b"data: [DONE]\n\n"]


def _deltas(reply: Reply, tokens: Tokens, stamp: Stamp) -> list[tuple[Json, str | None]]:
    pieces = PIECE.findall(reply.text)
    if reply.tool:
        call = {"name": reply.tool, "arguments": ""}
        opening = {"index": 0, "id": f"call_{stamp.ident}", "type": "function", "function": call}
        first: Json = {"role": "assistant", "content": None, "tool_calls": [opening], "refusal": None}
        rest: list[Json] = [
            {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces
        ]
    else:
        first = {"role": "assistant", "content": "", "refusal": None}
        rest = [{"content": piece} for piece in pieces]
    return [(first, None), *((delta, None) for delta in rest), ({}, finish_reason(reply, tokens))]


def _response_events(
    prompt: Prompt, reply: Reply, tokens: Tokens, stamp: Stamp, *, usage: bool
) -> list[Json]:
    whole = response(prompt, reply, tokens, stamp)
    begun = {**whole, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    if not usage:
        del whole["usage"]
    item = output_item(reply, stamp, whole["status"])
    opening = output_item(replace(reply, text=""), stamp, "in_progress")
    if not reply.tool:
        opening["content"] = []
    written = _call_events(reply, item["id"]) if reply.tool else _text_events(reply, item["id"])
    return [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": opening},
        *written,
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": f"response.{whole['status']}", "response": whole},
    ]


def _call_events(reply: Reply, item_id: str) -> list[Json]:
    place: dict[str, Any] = {"item_id": item_id, "output_index": 0}
    return [
        *(
            {"type": "response.function_call_arguments.delta", **place, "delta": piece}
            for piece in PIECE.findall(reply.text)
        ),
        {
            "type": "response.function_call_arguments.done",
            **place,
            "name": reply.tool,
            "arguments": reply.text,
        },
    ]


def _text_events(reply: Reply, item_id: str) -> list[Json]:
    place: dict[str, Any] = {"item_id": item_id, "output_index": 0, "content_index": 0}
    return [
        {"type": "response.content_part.added", **place, "part": output_text("")},
        *(
            {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
            for piece in PIECE.findall(reply.text)
        ),
        {"type": "response.output_text.done", **place, "text": reply.text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": output_text(reply.text)},
    ]

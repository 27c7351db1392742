"""Prompts and answers for the spans of provider calls, where that is switched on.

They take the form of OpenTelemetry's conventions for generative AI: messages, each of a role and its parts.
What has no such form stays as the API has it.
"""

from typing import Any, TypeAlias

from pydantic_core import to_json

from infra.messaging_spans import Attributes
from workers.generation.reading import Request

Messages: TypeAlias = list[dict[str, Any]]

#: Types of parts that are text, in chat completions and in responses, and where each keeps it.
TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
USER, ASSISTANT, TOOL = "user", "assistant", "tool"


def of_request(request: Request) -> Attributes:
    """The prompt: `gen_ai.input.messages`, and `gen_ai.system_instructions` where they stand apart."""
    body = request.body
    instructions = body.get("instructions")
    return {
        **_attribute("gen_ai.input.messages", _asked(body)),
        **_attribute("gen_ai.system_instructions", _parts(instructions) if instructions else []),
    }


def of_answer(document: dict[str, Any]) -> Attributes:
    """The answer: `gen_ai.output.messages`; none of images, numbers and streamed chat completions."""
    answers = [_choice(choice) for choice in _objects(document.get("choices")) if "message" in choice]
    if output := _objects(document.get("output")):
        parts = [part for item in output for part in _item(item)["parts"]]
        answers.append({"role": ASSISTANT, "parts": parts, "finish_reason": document.get("status", "")})
    return _attribute("gen_ai.output.messages", answers)


def _attribute(name: str, value: Messages) -> Attributes:
    return {name: to_json(value).decode()} if value else {}


def _asked(body: dict[str, Any]) -> Messages:
    """Chat completions have `messages`, images a `prompt`, all else an `input`."""
    if "messages" in body:
        return [_message(message) for message in _objects(body["messages"])]
    said = body.get("input", body.get("prompt"))
    items = _objects(said)
    if items:
        return [_item(item) for item in items]
    texts = said if isinstance(said, list) else [said]
    return [{"role": USER, "parts": _parts(text)} for text in texts if isinstance(text, str)]


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"] if isinstance(choice["message"], dict) else {}
    return {**_message(message), "finish_reason": choice.get("finish_reason") or ""}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """One of a chat completion."""
    role, content = message.get("role", ASSISTANT), message.get("content")
    if role == TOOL:
        response = {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
        return {"role": role, "parts": [response]}
    calls = [_call(call.get("id"), call.get("function")) for call in _objects(message.get("tool_calls"))]
    refusal = message.get("refusal")
    return {"role": role, "parts": [*_parts(content), *_parts(refusal), *calls]}


def _item(item: dict[str, Any]) -> dict[str, Any]:
    """One of the input or the output of a response."""
    match item.get("type", "message"):
        case "message":
            return {"role": item.get("role", USER), "parts": _parts(item.get("content"))}
        case "function_call":
            return {"role": ASSISTANT, "parts": [_call(item.get("call_id"), item)]}
        case "function_call_output":
            response = {
                "type": "tool_call_response",
                "id": item.get("call_id"),
                "response": item.get("output"),
            }
            return {"role": TOOL, "parts": [response]}
        case _:
            return {"role": ASSISTANT, "parts": [item]}


def _call(call_id: object, function: object) -> dict[str, Any]:
    said = function if isinstance(function, dict) else {}
    return {
        "type": "tool_call",
        "id": call_id,
        "name": said.get("name", ""),
        "arguments": said.get("arguments"),
    }


def _parts(content: object) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    return [_part(part) for part in _objects(content)]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    text = TEXTS.get(str(part.get("type")))
    if text is not None:
        return {"type": "text", "content": part.get(text, "")}
    image = part.get("image_url")
    uri = image.get("url") if isinstance(image, dict) else image
    return part if uri is None else {"type": "uri", "modality": "image", "uri": uri}


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

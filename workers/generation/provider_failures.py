"""Reads what a provider says where it does not answer: its error, and what that means."""

import time
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import SecretStr
from pydantic_core import PydanticSerializationError, from_json, to_json

from workers.generation.answers import Failure
from workers.generation.classification import AUTH_FAILED, classify, rate_limits
from workers.keys.provider_http import MOST_ERROR_BYTES

#: All that is said of a refused key: providers repeat a part of it.
REFUSED_MESSAGE = "the provider refuses the key"
#: Characters that are kept of an error that is not JSON, and of a message.
LONGEST_TEXT = 1000
#: Characters that are kept of an error's code.
LONGEST_CODE = 200


def refused(
    status: int, headers: Mapping[str, str], content: bytes, api_key: SecretStr, latency_ms: int
) -> Failure:
    """Judge an answer that is no success; the key is taken out of it, should the provider repeat it.

    Args:
        status: the HTTP status.
        headers: the answer's, found in lower case.
        content: its body.
        api_key: that was called with.
        latency_ms: how long the provider took, in milliseconds.
    """
    body = _error_body(content, api_key)
    details = body.get("error", body)
    details = details if isinstance(details, dict) else {"message": str(details)}
    code = _code(details.get("code") or details.get("type"))
    kind = _code(details.get("type"))
    message = _message(details, f"HTTP {status}")
    verdict = classify(status, kind if kind == "insufficient_quota" else code, message, headers, time.time())
    if verdict is AUTH_FAILED:
        return Failure(verdict, REFUSED_MESSAGE, latency_ms, status, code or None)
    return Failure(verdict, message, latency_ms, status, code or None, body, rate_limits(headers))


def broken_off(error: dict[str, Any], api_key: SecretStr, latency_ms: int) -> Failure:
    """Judge an error that came in a stream, in place of what should have followed.

    Args:
        error: as the event has it.
        api_key: that was called with.
        latency_ms: how long the provider took, in milliseconds.
    """
    body = _error_body(to_json({"error": error}), api_key)
    details = body.get("error", body)
    code = _code(details.get("code") or details.get("type"))
    message = _message(details, "the provider broke its stream off")
    verdict = classify(500, code, message, {}, time.time())
    if verdict is AUTH_FAILED:
        return Failure(verdict, REFUSED_MESSAGE, latency_ms, 200, code)
    return Failure(verdict, message, latency_ms, 200, code or None, {"error": details})


def _error_body(content: bytes, api_key: SecretStr) -> dict[str, Any]:
    """A provider's error as JSON that any reader can read; a text of it where it is none."""
    if len(content) < MOST_ERROR_BYTES:
        try:
            body = _scrubbed(from_json(content, allow_inf_nan=False), api_key)
        except (ValueError, PydanticSerializationError):
            body = None
        if isinstance(body, dict):
            return body
    text = content[: LONGEST_TEXT * 4].decode(errors="replace")
    return {"message": text.replace(api_key.get_secret_value(), "[key]")[:LONGEST_TEXT]}


def _scrubbed(value: Any, api_key: SecretStr) -> Any:
    """The value, with the key taken out of every text, and with no number that can't be written again."""
    secret = orjson.dumps(api_key.get_secret_value())[1:-1]
    return orjson.loads(to_json(value).replace(secret, b"[key]"))


def _code(value: object) -> str:
    return str(value or "")[:LONGEST_CODE]


def _message(details: dict[str, Any], otherwise: str) -> str:
    return str(details.get("message") or otherwise)[:LONGEST_TEXT]

"""The digest of a request, by which a repeat is told from another request with the same id."""

import hashlib
import json
from typing import Any

import orjson
from pydantic_core import from_json

from contracts.messages import GenerationRequest


def digest_of(path: str, body: dict[str, Any]) -> bytes:
    """SHA-256 of a path and a body as JSON, whatever the order of its keys and its white space.

    Deadline and user are no part of it: who asks again may give it another deadline.

    Args:
        path: of the provider's API.
        body: as it was parsed.
    """
    try:
        canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # A number of more than 64 bits, or a text that is not Unicode.
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(path.encode() + b"\0" + canonical).digest()


def digest_of_message(content: bytes) -> bytes | None:
    """The digest of a `generation.request.v1`; None where it is none.

    Args:
        content: of the message.
    """
    try:
        request = GenerationRequest.model_validate(from_json(content, allow_inf_nan=False))
    except ValueError:
        return None
    return digest_of(request.path, request.body)

"""The provider's refusals, with the bodies that OpenAI sends. None of them repeats a part of the API key."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.local.simulator.journal import Outcome
from infra.local.simulator.limits import Refused, duration, retry_headers


@dataclass(frozen=True, slots=True)
class Rejection:
    """An answer other than 200."""

    outcome: Outcome
    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


def _error(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


NO_KEY = Rejection(
    "invalid_key",
    401,
    _error(
        "You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        "invalid_request_error",
        None,
    ),
)
INVALID_KEY = Rejection(
    "invalid_key",
    401,
    _error(
        "Incorrect API key provided: ********. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        "invalid_request_error",
        "invalid_api_key",
    ),
)
DEACTIVATED = Rejection(
    "invalid_key",
    401,
    _error(
        "The OpenAI account associated with this API key has been deactivated.",
        "invalid_request_error",
        "account_deactivated",
    ),
)
FORBIDDEN = Rejection(
    "forbidden",
    403,
    _error(
        "Your access was terminated due to violation of our policies.",
        "access_terminated",
        "access_terminated",
    ),
)
QUOTA_EXHAUSTED = Rejection(
    "insufficient_quota",
    429,
    _error(
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        "insufficient_quota",
    ),
)
SERVER_ERROR = Rejection(
    "server_error",
    500,
    _error("The server had an error while processing your request. Sorry about that!", "server_error", None),
)
OVERLOADED = Rejection(
    "overloaded",
    503,
    _error("The engine is currently overloaded, please try again later.", "server_error", None),
)
NOT_JSON = Rejection(
    "bad_request",
    400,
    _error("We could not parse the JSON body of your request.", "invalid_request_error", None),
)
TOO_LARGE = Rejection(
    "bad_request", 413, _error("The body of your request is too large.", "invalid_request_error", None)
)
NO_MODEL = Rejection(
    "bad_request", 400, _error("you must provide a model parameter", "invalid_request_error", None)
)
MALFORMED = Rejection(
    "bad_request",
    400,
    _error(
        "A tool or a format in your request is malformed.", "invalid_request_error", "invalid_json_schema"
    ),
)
CONTENT_POLICY = Rejection(
    "bad_request",
    400,
    _error(
        "Your request was rejected as a result of our safety system.",
        "invalid_request_error",
        "content_policy_violation",
    ),
)


def unknown_path(method: str, path: str) -> Rejection:
    """No such endpoint."""
    return Rejection(
        "bad_request", 404, _error(f"Invalid URL ({method} {path})", "invalid_request_error", None)
    )


def bad_parameter(name: str, code: str, message: str) -> Rejection:
    """A parameter is missing or wrong."""
    return Rejection("bad_request", 400, _error(message, "invalid_request_error", code, name))


def model_not_found(model: str) -> Rejection:
    """The key has no access to the model."""
    return Rejection(
        "model_not_found",
        404,
        _error(
            f"The model `{model}` does not exist or you do not have access to it.",
            "invalid_request_error",
            "model_not_found",
        ),
    )


def rate_limited(model: str, wait_s: float) -> Rejection:
    """Refused for a while, by the script and not by a limit."""
    message = f"Rate limit reached for {model}. Please try again in {duration(wait_s)}."
    return Rejection(
        "rate_limited", 429, _error(message, "requests", "rate_limit_exceeded"), retry_headers(wait_s)
    )


def over_limit(model: str, refused: Refused, now: float) -> Rejection:
    """Refused by one of the key's limits."""
    wait_s = refused.retry_at - now
    figures = f"Limit {refused.limit}, Used {refused.used}, Requested {refused.requested}."
    if math.isinf(wait_s):
        message = f"Request too large for {model} on {refused.per}: {figures}"
    else:
        message = (
            f"Rate limit reached for {model} on {refused.per}: {figures} "
            f"Please try again in {duration(wait_s)}."
        )
    return Rejection(
        "rate_limited", 429, _error(message, refused.kind, "rate_limit_exceeded"), retry_headers(wait_s)
    )

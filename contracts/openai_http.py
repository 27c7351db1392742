"""OpenAI's HTTP on one side, requests and results of the queue on the other: what becomes of what.

Nothing here sends or waits; `openai_transport` does.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from string import punctuation
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from contracts.errors import ErrorCode
from contracts.messages import Outcome, Path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from contracts.errors import GenerationError
    from contracts.messages import Attempt, GenerationResult

#: The deadline of a request whose HTTP client has no read timeout, in seconds: the SDK's own default.
DEFAULT_TIMEOUT_S = 600.0
#: A deadline lies at most 24 h ahead on MongoDB's clock, which may differ from ours, in seconds.
LONGEST_TIMEOUT_S = 23 * 3600.0
LONGEST_REQUEST_ID = 128
LONGEST_USER_ID = 256

#: Headers that may name the request's id, the first that is there.
REQUEST_ID_HEADERS = ("idempotency-key", "x-client-request-id")
#: Whom the usage is booked on; without it the body's `user` or `safety_identifier`.
USER_HEADER = "x-keyway-user"
USER_FIELDS = ("user", "safety_identifier")
JSON_CONTENT = "application/json"
EVENT_STREAM: Final = {"content-type": "text/event-stream; charset=utf-8"}
DONE: Final = b"data: [DONE]\n\n"

#: Keyway has waited and tried again already, so the SDK must not.
NO_RETRY: Final = {"x-should-retry": "false"}
#: Failures that are the provider's, in its words where it gave any.
OF_PROVIDER = frozenset({ErrorCode.PROVIDER_REJECTED, ErrorCode.PROVIDER_UNAVAILABLE})
#: The statuses of failures for which the provider gave none.
STATUSES: Final = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.PROVIDER_REJECTED: 404,
    ErrorCode.NO_KEYS: 401,
    ErrorCode.NO_USABLE_KEY: 401,
    ErrorCode.KEYS_EXHAUSTED: 429,
    ErrorCode.BUDGET_EXCEEDED: 429,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.PROVIDER_UNAVAILABLE: 503,
    ErrorCode.AUTOMATION_DISABLED: 403,
    ErrorCode.INTERNAL: 500,
}
#: What an error calls the request's id, and the status where another request has that id.
REQUEST_ID: Final = "request_id"
CONFLICT: Final = 409
#: OpenAI's code where no key may use a model; of that, Keyway knows without a call.
MODEL_NOT_FOUND: Final = "model_not_found"
#: OpenAI's `type` of an error, by status.
ERROR_TYPES: Final = {403: "permission_error", 429: "insufficient_quota"}


@dataclass(frozen=True, slots=True)
class Call:
    """A request for the queue.

    Attributes:
        path: the provider's endpoint.
        body: the provider's request body.
        request_id: the idempotency key, where the program gave one.
        user: whom the usage is booked on.
        timeout_s: how long the whole may take, in seconds.
        traceparent: the W3C trace that the request belongs to.
    """

    path: Path
    body: dict[str, Any]
    request_id: str | None
    user: str | None
    timeout_s: float
    traceparent: str | None

    @property
    def is_stream(self) -> bool:
        """Whether the answer comes in chunks."""
        return self.body.get("stream") is True


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole response; names of headers are in lower case."""

    status: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


def read_call(
    method: str,
    url_path: str,
    *,
    query: bytes,
    headers: Mapping[str, str],
    content: bytes,
    read_timeout_s: float | None,
) -> Call | HttpAnswer:
    """Read an HTTP request, or say why Keyway does not serve it.

    Args:
        method: in upper case.
        url_path: the path with whatever comes before the endpoint, such as `/v1`.
        query: the query, as it came.
        headers: with names in lower case, or in any.
        content: the body.
        read_timeout_s: the HTTP client's read timeout, in seconds; None for none.
    """
    path = next((path for path in Path if url_path.endswith(path)), None)
    if path is None or method != "POST":
        served = ", ".join(Path)
        return _own_error(404, f"Keyway serves POST to {served}; not {method} {url_path}", "not_served")
    if query:
        return bad_request("Keyway passes no query on to the provider; put it into the body")
    content_type = headers.get("content-type", JSON_CONTENT).partition(";")[0].strip().lower()
    if content_type != JSON_CONTENT:
        return _own_error(415, f"Keyway takes {JSON_CONTENT}, not {content_type}", ErrorCode.INVALID_REQUEST)
    try:
        body = json.loads(content)
    except ValueError as error:
        return bad_request(f"the body is not JSON: {error}")
    if not isinstance(body, dict):
        return bad_request("expected the body to be a JSON object")
    request_id = next((headers[name] for name in REQUEST_ID_HEADERS if headers.get(name)), None)
    if request_id is not None and len(request_id) > LONGEST_REQUEST_ID:
        return bad_request(f"the request's id is longer than {LONGEST_REQUEST_ID} characters")
    user = headers.get(USER_HEADER)
    if user is not None and not _is_user_id(user):
        return bad_request(f"{USER_HEADER} has not 1 to {LONGEST_USER_ID} characters")
    timeout_s = DEFAULT_TIMEOUT_S if read_timeout_s is None else min(read_timeout_s, LONGEST_TIMEOUT_S)
    traceparent = headers.get("traceparent")
    return Call(path, body, request_id, user or _user_of(body), timeout_s, traceparent)


def bad_request(message: str) -> HttpAnswer:
    """A refusal before anything was published."""
    return _own_error(400, message, ErrorCode.INVALID_REQUEST)


def succeeded(result: GenerationResult) -> HttpAnswer:
    """The provider's JSON, and what Keyway knows of it as headers."""
    return HttpAnswer(200, json.dumps(result.response).encode(), _headers(result))


def failed(error: GenerationError, now: datetime) -> HttpAnswer:
    """A failed result as OpenAI would say it: the provider's own words where it is the provider's.

    Args:
        error: the failure.
        now: for `retry-after`.
    """
    code = _code(error)
    headers = {**_headers(error.result), "x-keyway-error-code": code, **NO_RETRY}
    if error.retry_at is not None:
        wait_s = (error.retry_at - now).total_seconds()
        headers["retry-after"] = str(max(0, math.ceil(wait_s)))
    status, body = _provider_status(error), _provider_body(error)
    if status is not None and body is not None:
        return HttpAnswer(status, json.dumps(body).encode(), headers)
    if error.code is ErrorCode.PROVIDER_REJECTED and status is None:
        code = MODEL_NOT_FOUND
    status = status or _status(error)
    return HttpAnswer(status, _error_json(status, str(error), code, _param(error)), headers)


def stream_begun(request_id: str) -> dict[str, str]:
    """The headers of a response that streams."""
    return {**EVENT_STREAM, "x-request-id": _header_value(request_id)}


def without_chunks(result: GenerationResult, *, is_own_id: bool) -> HttpAnswer | None:
    """The response where a result came and no chunk before it; None for a stream that is merely empty.

    A provider may answer with plain JSON what does not stream. A repeat has no chunks if it was not streamed
    the first time, or was too long to be kept.

    Args:
        result: the result.
        is_own_id: whether the program chose the id. If not, the SDK may ask anew, under another one.
    """
    if not result.replayed:
        return None if result.response is None else succeeded(result)
    message = f"request {result.request_id} was answered before, and has no chunks to repeat"
    headers = {**_headers(result), "x-should-retry": str(not is_own_id).lower()}
    return HttpAnswer(CONFLICT, _error_json(CONFLICT, message, "already_answered"), headers)


def event(path: Path, data: dict[str, Any]) -> bytes:
    """A chunk as the server-sent event that it was at the provider."""
    frame = b"data: %b\n\n" % json.dumps(data).encode()
    kind = data.get("type")
    if path is Path.CHAT_COMPLETIONS or not isinstance(kind, str):
        return frame
    return b"event: %b\n%b" % (kind.encode(), frame)


def end(path: Path) -> bytes:
    """What follows the last chunk."""
    return DONE if path is Path.CHAT_COMPLETIONS else b""


def failed_event(error: GenerationError) -> bytes:
    """A failure after chunks, in the form that OpenAI's own failures have in a stream."""
    body = _provider_body(error)
    if body is not None and isinstance(body.get("error"), dict):
        return b"data: %b\n\n" % json.dumps(body).encode()
    return b"data: %b\n\n" % _error_json(_status(error), str(error), _code(error), _param(error))


def _code(error: GenerationError) -> str:
    """The code on the wire, which may be a later version's."""
    failure = error.result.error
    return str(error.code if failure is None else failure.code)


def _param(error: GenerationError) -> str | None:
    """What of the request is wrong, where it is one thing."""
    return None if error.result.error is None else error.result.error.param


def _status(error: GenerationError) -> int:
    """The status of a failure for which the provider gave none."""
    is_conflict = error.code is ErrorCode.INVALID_REQUEST and _param(error) == REQUEST_ID
    return CONFLICT if is_conflict else STATUSES[error.code]


def _provider_body(error: GenerationError) -> dict[str, Any] | None:
    """What the provider said, where the failure is its own."""
    failure = error.result.error
    return failure.provider if failure is not None and error.code in OF_PROVIDER else None


def _provider_status(error: GenerationError) -> int | None:
    """The status of the last attempt that failed as the request did, where the failure is the provider's."""
    is_it = _rejects if error.code is ErrorCode.PROVIDER_REJECTED else _is_down
    statuses = [attempt.http_status for attempt in error.result.attempts if is_it(attempt)]
    return statuses[-1] if statuses and error.code in OF_PROVIDER else None


def _rejects(attempt: Attempt) -> bool:
    return attempt.http_status is not None and attempt.outcome in {
        Outcome.REJECTED,
        Outcome.MODEL_UNAVAILABLE,
    }


def _is_down(attempt: Attempt) -> bool:
    return attempt.http_status is not None and attempt.http_status >= 500


def _headers(result: GenerationResult) -> dict[str, str]:
    headers = {
        "content-type": JSON_CONTENT,
        "x-request-id": _header_value(result.request_id),
        "x-keyway-attempts": str(len(result.attempts)),
        "x-keyway-cost-nanousd": str(result.cost_nanousd),
        "x-keyway-total-ms": str(result.timings.total_ms),
        "x-keyway-replayed": str(result.replayed).lower(),
    }
    if result.key_alias is not None:
        headers["x-keyway-key-alias"] = _header_value(result.key_alias)
    return headers


def _header_value(text: str) -> str:
    """The text in ASCII: other characters are percent-encoded."""
    return quote(text, safe=punctuation.replace("%", "") + " ")


def _is_user_id(text: object) -> bool:
    return isinstance(text, str) and 1 <= len(text) <= LONGEST_USER_ID


def _user_of(body: dict[str, Any]) -> str | None:
    return next((body[name] for name in USER_FIELDS if _is_user_id(body.get(name))), None)


def _own_error(status: int, message: str, code: str) -> HttpAnswer:
    headers = {"content-type": JSON_CONTENT, **NO_RETRY}
    return HttpAnswer(status, _error_json(status, message, code), headers)


def _error_json(status: int, message: str, code: str, param: str | None = None) -> bytes:
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()

"""What the span of a provider call tells of it (OpenTelemetry's semantic conventions for generative AI).

No texts: neither of the request, nor of the answer, nor of an error.
"""

from typing import Any
from urllib.parse import urlsplit

from opentelemetry.semconv.attributes.http_attributes import HTTP_RESPONSE_STATUS_CODE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

from contracts.messages import Path
from infra.messaging_spans import Attributes
from workers.generation.answers import Answer, Failure
from workers.generation.provider_usage import usage_of
from workers.generation.reading import Request
from workers.keys.key import Key

#: What each endpoint does; of moderations the conventions know nothing.
OPERATIONS = {
    Path.CHAT_COMPLETIONS: "chat",
    Path.RESPONSES: "chat",
    Path.EMBEDDINGS: "embeddings",
    Path.IMAGES: "generate_content",
    Path.MODERATIONS: "moderation",
}
#: The API that is spoken; whose it is says `server.address`.
PROVIDER = "openai"
#: Parameters of a request, as the conventions name them.
PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "n": "gen_ai.request.choice.count",
}
DEFAULT_PORTS = {"http": 80, "https": 443}
LEAST_ERROR_STATUS = 400
#: What fits into a span's attribute; a request may hold larger numbers.
LARGEST_INTEGER = 2**63 - 1


def span_name(request: Request) -> str:
    """The operation, and the model where the request names one."""
    operation = OPERATIONS[request.path]
    return operation if request.model is None else f"{operation} {request.model}"


def asked(request: Request, key: Key) -> Attributes:
    """What is known before the call: operation, model, parameters, the server, and the key's alias."""
    return {
        "gen_ai.operation.name": OPERATIONS[request.path],
        "gen_ai.provider.name": PROVIDER,
        **({} if request.model is None else {"gen_ai.request.model": request.model}),
        **({"gen_ai.request.stream": True} if request.wants_chunks else {}),
        **{
            attribute: value
            for name, attribute in PARAMETERS.items()
            if (value := _number(request.body.get(name))) is not None
        },
        **_server(key.base_url),
        "keyway.key": key.alias,
    }


def answered(answer: Answer) -> Attributes:
    """What the provider's answer says beside its texts: id, model, why it ended, and tokens."""
    document = answer.document
    said = {"gen_ai.response.id": document.get("id"), "gen_ai.response.model": document.get("model")}
    attributes: Attributes = {HTTP_RESPONSE_STATUS_CODE: answer.http_status, "keyway.outcome": "ok"}
    attributes |= {name: value for name, value in said.items() if isinstance(value, str)}
    if reasons := _finish_reasons(document):
        attributes["gen_ai.response.finish_reasons"] = reasons
    if usage := usage_of(document):
        counts = {
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
        attributes |= {name: count for name, count in counts.items() if count <= LARGEST_INTEGER}
    return attributes


def failed(failure: Failure) -> Attributes:
    """How a call failed: the HTTP status, and what Keyway takes it for."""
    status = {} if failure.http_status is None else {HTTP_RESPONSE_STATUS_CODE: failure.http_status}
    return {**status, "keyway.outcome": str(failure.verdict.outcome)}


def error_type(failure: Failure) -> str:
    """The provider's error code, else the HTTP status of an error, else what Keyway takes the failure for."""
    if failure.error_code:
        return failure.error_code
    status = failure.http_status or 0
    return str(status if status >= LEAST_ERROR_STATUS else failure.verdict.outcome)


def _server(base_url: str) -> Attributes:
    where = urlsplit(base_url)
    port = where.port or DEFAULT_PORTS.get(where.scheme)
    attributes: Attributes = {SERVER_ADDRESS: where.hostname or ""}
    return attributes if port is None else attributes | {SERVER_PORT: port}


def _number(value: Any) -> int | float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) <= LARGEST_INTEGER else None


def _finish_reasons(document: dict[str, Any]) -> list[str]:
    choices = document.get("choices")
    reasons = [
        choice.get("finish_reason")
        for choice in (choices if isinstance(choices, list) else [])
        if isinstance(choice, dict)
    ]
    return [reason for reason in reasons if isinstance(reason, str)]

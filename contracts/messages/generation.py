"""`generation.request.v1`, `generation.result.v1` and `generation.chunk.v1`."""

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field

from contracts.errors import ErrorCode
from contracts.messages._base import AutomationId, Json, Message, NanoUsd, RequestId, Time, TokenCount


class Path(StrEnum):
    """The provider's endpoints that a request may name."""

    CHAT_COMPLETIONS = "/chat/completions"
    RESPONSES = "/responses"
    EMBEDDINGS = "/embeddings"
    MODERATIONS = "/moderations"
    IMAGES = "/images/generations"


class GenerationRequest(Message):
    """What an automation asks for; an unknown field is an error, so that no typo is swallowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="generation.request.v1")

    path: Path
    body: Json = Field(
        description="The provider's request body, passed on as it is; `stream: true` asks for chunks."
    )
    user_id: str | None = Field(
        default=None, min_length=1, max_length=256, description="Whom the usage is booked on."
    )
    deadline: Time | None = Field(
        default=None, description="No call is started after it; at most 24 h ahead."
    )
    metadata: Json = Field(default_factory=dict, description="The automation's own; it comes back nowhere.")


class Outcome(StrEnum):
    """How one attempt at the provider ended."""

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXHAUSTED = "quota_exhausted"
    AUTH_FAILED = "auth_failed"
    MODEL_UNAVAILABLE = "model_unavailable"
    REJECTED = "rejected"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    CONNECTION_ERROR = "connection_error"
    BAD_RESPONSE = "bad_response"
    #: A stream that nobody took any more.
    CANCELLED = "cancelled"
    #: Nobody knows how it ended, since its worker died.
    AMBIGUOUS = "ambiguous"


#: What a reader takes: a later version may tell of an outcome, or a code, that this one does not know.
AnyOutcome: TypeAlias = Annotated[Outcome | str, Field(union_mode="left_to_right")]
AnyErrorCode: TypeAlias = Annotated[ErrorCode | str, Field(union_mode="left_to_right")]


class Attempt(Message):
    """One call to the provider."""

    key_alias: str
    outcome: AnyOutcome
    http_status: int | None = None
    latency_ms: int = Field(ge=0)


class Usage(Message):
    """Tokens, as the provider counted them."""

    prompt_tokens: TokenCount = 0
    completion_tokens: TokenCount = 0
    total_tokens: TokenCount = 0
    cached_tokens: TokenCount = 0
    reasoning_tokens: TokenCount = 0


class Timings(Message):
    """Where the time went, in milliseconds."""

    queued_ms: int = Field(ge=0, description="From the publish to the worker.")
    waited_ms: int = Field(ge=0, description="Waiting for a key with capacity.")
    upstream_ms: int = Field(ge=0, description="At the provider, all attempts together.")
    total_ms: int = Field(ge=0, description="From the publish to the result.")


class ResultError(Message):
    """Why a request failed."""

    code: AnyErrorCode
    message: str
    retryable: bool
    retry_at: Time | None = None
    provider: Json | None = Field(default=None, description="The provider's error body.")
    param: str | None = Field(
        default=None,
        description="What of the request is wrong, where it is one thing: `request_id` if another has it.",
    )


class GenerationResult(Message):
    """The one terminal answer to a request."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="generation.result.v1")

    request_id: RequestId
    automation_id: AutomationId
    status: Literal["succeeded", "failed"]
    response: Json | None = Field(description="The provider's JSON, with the same values.")
    error: ResultError | None
    usage: Usage
    usage_problem: str | None = Field(
        default=None, description="What the provider said of its use that can't be true, and does not count."
    )
    cost_nanousd: NanoUsd
    model: str | None
    key_alias: str | None
    attempts: list[Attempt]
    timings: Timings
    replayed: bool = Field(description="True when this answer was given before and is repeated.")


class GenerationChunk(Message):
    """One piece of a streamed answer; the result follows the last."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="generation.chunk.v1")

    request_id: RequestId
    index: int = Field(ge=0)
    data: Json
    restarted: bool = Field(
        default=False, description="True on the first chunk of a retry after a worker's death."
    )

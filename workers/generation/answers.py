"""What comes of one call to a provider: its answer, or why there is none."""

from dataclasses import dataclass
from typing import Any

from workers.generation.classification import Verdict
from workers.keys.reported import RateLimits


@dataclass(frozen=True, slots=True)
class Answer:
    """The provider's JSON, as bytes and decoded; of a stream what is known of it.

    `output_tokens` is an estimate for what was streamed, should the provider not count it.
    """

    raw: bytes
    document: dict[str, Any]
    http_status: int
    latency_ms: int
    rate_limits: RateLimits | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt without an answer; `provider` is the provider's error body.

    `output_tokens` is an estimate for what had come before it failed; None where nothing had.
    """

    verdict: Verdict
    message: str
    latency_ms: int
    http_status: int | None = None
    error_code: str | None = None
    provider: dict[str, Any] | None = None
    rate_limits: RateLimits | None = None
    output_tokens: int | None = None

"""What the simulator does with each key: limits, refusals, faults, latency and token counts."""

import math
from random import Random
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

#: What happens to an admitted call instead of a good answer.
Fault: TypeAlias = Literal["server_error", "overloaded", "hang", "broken_json", "cut", "dropped"]

Limit: TypeAlias = Annotated[int, Field(ge=1)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Milliseconds: TypeAlias = Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class LognormalLatency(_Frozen):
    """Latency that varies as real ones do: most calls near the mean, a long tail above it."""

    mean: float = Field(gt=0, description="Mean latency, in milliseconds.")
    sigma: float = Field(ge=0, le=3, description="Spread of its logarithm; 0.5 is a calm provider.")


class TokenRange(_Frozen):
    """Completion tokens, uniformly random, both ends included."""

    min: int = Field(ge=0)
    max: int = Field(ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"expected min <= max, got {self.min} > {self.max}")
        return self


class KeyScript(_Frozen):
    """How the simulator treats one API key; what is not said is unlimited and faultless.

    The first of `invalid`, `deactivated` and `forbidden` that is set refuses every call. The rates are shares
    of the admitted calls, exclude each other and so sum to at most 1.
    """

    name: str = Field(
        min_length=1, max_length=128, pattern=r"^[^/]+$", description="How the journal names the key."
    )
    api_key: SecretStr = Field(min_length=1)

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    tokens_per_day: Limit | None = Field(default=None, description="Per UTC day.")

    invalid: bool = Field(default=False, description="401, code `invalid_api_key`.")
    deactivated: bool = Field(default=False, description="401, code `account_deactivated`.")
    forbidden: bool = Field(default=False, description="403, code `access_terminated`.")
    quota_exhausted: bool = Field(
        default=False, description="429, code `insufficient_quota`; `GET /models` answers all the same."
    )
    denied_models: frozenset[str] = Field(default=frozenset(), description="404, code `model_not_found`.")
    rate_limited_for_ms: Milliseconds = Field(
        default=0, description="429 for this long, from the first call after the script was set."
    )

    down: bool = Field(default=False, description="503 to every call, `GET /models` included.")
    latency_ms: Milliseconds | LognormalLatency = Field(
        default=0, description="How long a call takes; a stream spreads it over its chunks."
    )
    error_rate: Share = Field(default=0, description="500.")
    overloaded_rate: Share = Field(default=0, description="503.")
    hang_rate: Share = Field(default=0, description="No answer until the client goes.")
    held: bool = Field(default=False, description="No answer until the key has another script.")
    broken_json_rate: Share = Field(default=0, description="200 with a body that is not JSON.")
    cut_stream_rate: Share = Field(
        default=0, description="The connection closes in the middle of a stream; other calls are spared."
    )
    drop_rate: Share = Field(default=0, description="The connection closes without an answer.")

    completion_tokens: Annotated[int, Field(ge=0)] | TokenRange | None = Field(
        default=None, description="What `usage` says, whatever the content; absent: as the content has."
    )
    omit_usage: bool = Field(default=False, description="Answer 200 without `usage`.")

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        total = math.fsum(share for _, share in self.fault_shares())
        if total > 1:
            raise ValueError(f"expected rates that sum to at most 1, got {total:g}")
        return self

    def fault_shares(self) -> tuple[tuple[Fault, float], ...]:
        """Each fault with its share of the admitted calls."""
        return (
            ("server_error", self.error_rate),
            ("overloaded", self.overloaded_rate),
            ("hang", self.hang_rate),
            ("broken_json", self.broken_json_rate),
            ("dropped", self.drop_rate),
            ("cut", self.cut_stream_rate),
        )


class Script(_Frozen):
    """The whole provider: its keys, and what becomes of calls with any other."""

    keys: tuple[KeyScript, ...] = ()
    unknown_keys: Literal["reject", "accept"] = Field(
        default="reject", description="`reject`: 401; `accept`: served, without limits or faults."
    )

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        names = [key.name for key in self.keys]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"expected each name once, got {name!r} twice")
        if len({key.api_key.get_secret_value() for key in self.keys}) < len(names):
            raise ValueError("expected each api_key once, got one under two names")
        return self

    def with_key(self, key: KeyScript) -> Self:
        """The same script with this key, in place of the one of its name.

        Raises:
            pydantic.ValidationError: its API key is another's.
        """
        others = (other for other in self.keys if other.name != key.name)
        return type(self)(keys=(*others, key), unknown_keys=self.unknown_keys)


#: Without a script every key is good, so that a demo works with whatever key it was given.
DEMO = Script(unknown_keys="accept")


def draw_fault(script: KeyScript, random: Random, *, stream: bool) -> Fault | None:
    """What goes wrong with this call, if anything."""
    draw = random.random()
    for fault, share in script.fault_shares():
        if draw < share:
            return None if fault == "cut" and not stream else fault
        draw -= share
    return None


def draw_latency_s(script: KeyScript, random: Random) -> float:
    """How long this call takes, in seconds."""
    latency = script.latency_ms
    if isinstance(latency, LognormalLatency):
        mu = math.log(latency.mean) - latency.sigma**2 / 2
        return random.lognormvariate(mu, latency.sigma) / 1000
    return latency / 1000


def draw_completion_tokens(script: KeyScript, random: Random, natural: int) -> int:
    """How many tokens the model would write; `natural` when the script does not say."""
    tokens = script.completion_tokens
    if tokens is None:
        return natural
    return random.randint(tokens.min, tokens.max) if isinstance(tokens, TokenRange) else tokens

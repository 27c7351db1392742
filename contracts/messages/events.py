"""The events of exchange `events`: past tense, published by workers, accounting and automations."""

from typing import Literal

from pydantic import ConfigDict, Field

from contracts.messages._base import AutomationId, Message, NanoUsd, RequestId, Time, TokenCount
from contracts.messages.generation import AnyOutcome, Outcome, Usage

KeyStatus = Literal["active", "disabled", "exhausted", "error"]


class UsageRecorded(Usage):
    """One attempt at the provider; accounting applies it once by `event_id`."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="usage.recorded.v1")

    event_id: str = Field(description="`<request_id>:<attempt>`, unique within the automation.")
    request_id: RequestId
    automation_id: AutomationId
    user_id: str | None = None
    key_id: str
    key_alias: str
    path: str
    model: str
    outcome: AnyOutcome
    http_status: int | None = None
    error_code: str | None = Field(default=None, description="The provider's own error code.")
    cost_nanousd: NanoUsd
    price_known: bool = Field(description="False: the model has no price, and the cost is not in the sum.")
    tokens_estimated: bool = Field(
        default=False, description="The provider did not say; the counts are estimates."
    )
    usage_problem: str | None = Field(
        default=None, description="What the provider said of its use that can't be true, and does not count."
    )
    latency_ms: int = Field(ge=0)
    reserved_tokens: TokenCount
    source: Literal["worker", "lease"] = "worker"
    occurred_at: Time


class UsageReported(Usage):
    """What an automation spent on a leased key."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="usage.reported.v1")

    lease_id: str
    report_id: str
    model: str
    outcome: Outcome


class Heartbeat(Message):
    """An automation is alive."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="heartbeat.v1")

    version: str
    host: str
    started_at: Time
    in_flight: int = Field(ge=0)


class KeyStatusChanged(Message):
    """A key's status changed."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", title="key.status_changed.v1", populate_by_name=True
    )

    key_id: str
    alias: str
    from_: KeyStatus = Field(alias="from")
    to: KeyStatus
    reason: str
    until: Time | None = None
    actor: str
    occurred_at: Time


class BudgetCrossed(Message):
    """Spending crossed a threshold of a budget."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="budget.crossed.v1")

    scope: Literal["automation", "key", "user"]
    subject: str
    window: Literal["day", "month"]
    threshold_percent: int = Field(ge=0)
    spent_nanousd: NanoUsd
    limit_nanousd: NanoUsd


class ConfigChanged(Message):
    """An operator changed keys, limits or the automation; workers reload."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="config.changed.v1")

    automation_id: AutomationId
    what: str
    actor: str
    occurred_at: Time

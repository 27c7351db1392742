"""One request in a few facts, by its rows in the ledger and its entry in the journal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from contracts.messages import Outcome
from infra.mongo import Document


class Status(StrEnum):
    """How far a request is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """One request.

    Attributes:
        at: when it ended, or began where it is under way.
        code: the error's code where it failed and the journal still says why.
        attempts: how many calls are booked.
        timings: `queued_ms`, `waited_ms`, `upstream_ms` and `total_ms`, where the journal still has them.
    """

    automation_id: str
    request_id: str
    status: Status
    at: datetime
    code: str | None
    user_id: str | None
    model: str | None
    path: str | None
    key_alias: str | None
    attempts: int
    outcomes: list[str]
    total_tokens: int
    cost_nanousd: int
    latency_ms: int
    timings: dict[str, int] | None


def summarise(
    rows: Sequence[Document],
    entry: Document | None,
    timings: Mapping[str, int] | None,
    *,
    at: datetime | None = None,
) -> RequestSummary:
    """Sum a request up.

    Args:
        rows: of the ledger, in their order; there is one, or an entry.
        entry: of the journal.
        timings: of its result, where they are known.
        at: when it is said to have ended, where that is not the last attempt's end.
    """
    said = entry or rows[-1]
    last = rows[-1] if rows else said
    status, code = _status(rows, entry)
    ended = rows[-1]["occurred_at"] if rows else said.get("finished_at")
    call = said.get("call") or {}
    return RequestSummary(
        said["automation_id"],
        said["request_id"],
        status,
        at or ended or said["created_at"],
        code,
        last.get("user_id"),
        last.get("model"),
        last.get("path"),
        last.get("key_alias") or call.get("key_alias"),
        len(rows),
        [row["outcome"] for row in rows],
        sum(row["total_tokens"] for row in rows),
        sum(row["cost_nanousd"] for row in rows),
        sum(row["latency_ms"] for row in rows),
        dict(timings) if timings is not None else None,
    )


def _status(rows: Sequence[Document], entry: Document | None) -> tuple[Status, str | None]:
    if entry is None:
        is_ok = any(row["outcome"] == Outcome.OK.value for row in rows)
        return (Status.SUCCEEDED if is_ok else Status.FAILED), None
    told: str = entry["status"]
    return (Status(told), None) if told in set(Status) else (Status.FAILED, told)

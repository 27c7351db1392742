"""What the books say of a key's status: pure decisions (architecture.md, Key life)."""

from collections.abc import Sequence
from datetime import UTC, datetime

from infra.mongo import Document
from workers.keys.limits import CIRCUIT_FAILURES, next_midnight
from workers.keys.status import StatusChange

ACTOR = "accounting"
#: Outcomes that count against a key's health, for which the request itself is not to blame.
FAILURES = frozenset({"server_error", "timeout", "connection_error", "bad_response"})


def next_status(
    key: Document, rows: Sequence[Document], today: Document | None, now: datetime
) -> StatusChange | None:
    """How new ledger rows change the status of their key.

    A refusal from before the key's last change says nothing of the key as it is now. What an automation
    reports of a leased key counts in the day's total only: nobody can tell whether it is true.

    Args:
        key: the key's document, with the failures in a row that workers counted.
        rows: the new ledger rows of this key.
        today: the key's total of the UTC day, with these rows.
        now: the time.

    Returns:
        The change, or None.
    """
    if key["status"] in {"disabled", "error"}:
        return None
    fresh = [row for row in rows if row["source"] == "worker" and row["occurred_at"] >= key["status_since"]]
    if refusals := [row for row in fresh if row["outcome"] == "auth_failed"]:
        return StatusChange("error", _refusal_reason(refusals[-1]), None, ACTOR, now, "refused")
    if key["status"] == "exhausted":
        return None
    in_a_row = key.get("health", {}).get("failures", 0)
    if in_a_row >= CIRCUIT_FAILURES and (failed := [row for row in fresh if row["outcome"] in FAILURES]):
        return StatusChange("error", _failure_reason(in_a_row, failed[-1]), None, ACTOR, now, "failing")
    if any(row["outcome"] == "quota_exhausted" for row in fresh):
        reason = "the provider says that the quota is spent"
        return StatusChange("exhausted", reason, None, ACTOR, now, "quota")
    limit = key["limits"]["tokens_per_day"]
    if limit is not None and today is not None and is_day_spent(limit, today):
        until = datetime.fromtimestamp(next_midnight(now.timestamp()), UTC)
        reason = f"{today['total_tokens']} of {limit} daily tokens are used"
        return StatusChange("exhausted", reason, until, ACTOR, now, "day")
    return None


def is_day_spent(limit: int, today: Document) -> bool:
    """Whether not even a call as small as the smallest of the day still fits into the daily limit."""
    left: int = limit - today["total_tokens"]
    return left <= 0 or left < min(today["least_reserved_tokens"], limit)


def renewal(now: datetime) -> StatusChange:
    """The end of an `exhausted` whose time is over."""
    return StatusChange("active", "its limit starts anew", None, ACTOR, now)


def _refusal_reason(row: Document) -> str:
    code, status = row["error_code"] or "no code", row["http_status"]
    if status is None:
        return f"no call can be made with the key: {code}"
    return f"the provider refuses the key: {status} {code}"


def _failure_reason(in_a_row: int, row: Document) -> str:
    status = f" {row['http_status']}" if row["http_status"] is not None else ""
    return f"{in_a_row} calls in a row failed; the last: {row['outcome']}{status}"

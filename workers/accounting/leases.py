"""Leased keys in the books: what a report says, and what a lease is charged of which none came.

Pure decisions. All that is booked of a lease bears the time of its grant, so that a report which is published
twice tells of the same attempt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from contracts.messages import Outcome, UsageRecorded, UsageReported
from infra.mongo import Document
from infra.prices import cost
from workers.keys.leases import KEPT

#: The most tokens that one report may tell of; sums stay far below what 64 bits hold.
MOST_TOKENS = 100_000_000
#: The most reports that one lease may have: it is for one call, which may be tried again.
MOST_REPORTS = 100
#: The longest model and report id, in characters.
LONGEST_TEXT = 256
#: Under which a ledger row of a lease stands whose use nobody reported.
UNREPORTED = "unreported"
#: Neither an automation nor a report says which endpoint was called.
PATH = "direct"


@dataclass(frozen=True, slots=True)
class Report:
    """What an automation says of its use of a leased key; the broker vouches for which automation."""

    automation_id: str
    said: UsageReported

    @property
    def lease_id(self) -> str:
        """Of which lease it tells."""
        return self.said.lease_id


@dataclass(frozen=True, slots=True)
class Unreported:
    """A lease whose time is over, and of which nothing was told."""

    lease_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """What is not booked, and why."""

    reason: str


#: What the ledger books of a lease.
LeaseEntry: TypeAlias = Report | Unreported


def booked(entry: LeaseEntry, lease: Document | None) -> UsageRecorded | Refused:
    """The event that an entry becomes, or why it becomes none.

    Args:
        entry: what is told of a lease, or that nothing is.
        lease: its document; None where there is no such lease.
    """
    if isinstance(entry, Unreported):
        return _unreported(lease) if lease is not None else Refused("the lease is gone")
    problem = _problem(entry, lease)
    if problem is not None or lease is None:
        return Refused(problem or "")
    said = entry.said
    price = cost(said.model, said.prompt_tokens, said.completion_tokens, said.cached_tokens)
    return _event(
        lease,
        said.report_id,
        model=said.model,
        outcome=said.outcome,
        prompt_tokens=said.prompt_tokens,
        completion_tokens=said.completion_tokens,
        total_tokens=max(said.total_tokens, said.prompt_tokens + said.completion_tokens),
        cached_tokens=said.cached_tokens,
        reasoning_tokens=said.reasoning_tokens,
        cost_nanousd=price.nanousd,
        price_known=price.known,
    )


def _problem(report: Report, lease: Document | None) -> str | None:
    said = report.said
    if lease is None or lease["automation_id"] != report.automation_id:
        return f"{report.automation_id} has no such lease"
    if lease["status"] == "charged":
        return "the report came too late: the lease was charged at its estimate"
    if lease["reports"] >= MOST_REPORTS:
        return f"the lease has had its {MOST_REPORTS} reports"
    if not 1 <= len(said.report_id) <= LONGEST_TEXT or not 1 <= len(said.model) <= LONGEST_TEXT:
        return f"report_id and model: expected 1 to {LONGEST_TEXT} characters"
    counts = (
        said.prompt_tokens,
        said.completion_tokens,
        said.total_tokens,
        said.cached_tokens,
        said.reasoning_tokens,
    )
    if max(counts) > MOST_TOKENS:
        return f"expected at most {MOST_TOKENS} tokens"
    return None


def _unreported(lease: Document) -> UsageRecorded | Refused:
    if lease["status"] not in {"open", "revoked"}:
        return Refused("the lease has ended")
    model = lease["model"] or "unknown"
    tokens = lease["tokens"]
    # Nobody knows which of them are input and which output: the dearer, so that silence saves nothing.
    as_input, as_output = cost(model, tokens, 0, 0), cost(model, 0, tokens, 0)
    is_input = as_input.nanousd > as_output.nanousd
    price = as_input if is_input else as_output
    return _event(
        lease,
        UNREPORTED,
        model=model,
        outcome=Outcome.AMBIGUOUS,
        prompt_tokens=tokens if is_input else 0,
        completion_tokens=0 if is_input else tokens,
        total_tokens=tokens,
        cost_nanousd=price.nanousd,
        price_known=price.known,
        tokens_estimated=True,
    )


def _event(lease: Document, report_id: str, **said: Any) -> UsageRecorded:
    return UsageRecorded(
        event_id=f"{lease['_id']}:{report_id}",
        request_id=lease["_id"],
        automation_id=lease["automation_id"],
        key_id=lease["key_id"],
        key_alias=lease["key_alias"],
        path=PATH,
        latency_ms=0,
        reserved_tokens=lease["tokens"],
        source="lease",
        occurred_at=lease["granted_at"],
        **said,
    )


def after(lease: Document, added: Sequence[Document], replaced: Sequence[Document]) -> Document:
    """The update of a lease's document that goes with what changes of it in the ledger.

    Args:
        lease: its document.
        added: its new ledger rows.
        replaced: those that new ones replace.
    """
    reports = [row for row in added if not row["tokens_estimated"]]
    return {
        "$set": {"status": "reported" if reports else "charged", "forget_at": lease["expires_at"] + KEPT},
        "$inc": {
            "reports": len(reports) - len(replaced),
            "reported_tokens": sum(row["total_tokens"] for row in reports)
            - sum(row["total_tokens"] for row in replaced),
        },
    }

"""Totals by key, automation, user and model for each UTC day: sums of ledger rows, and nothing else."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import add, itemgetter, neg

from infra.mongo import Document, UpdateOne
from infra.totals import SUMMED, TOKEN_FIELDS, total_id
from workers.accounting.crowds import OTHERS

#: What of a row is added to its totals as it is; what is counted besides follows from its outcome and price.
AMOUNTS = (*TOKEN_FIELDS, "cost_nanousd", "latency_ms", "reserved_tokens")
_amounts = itemgetter(*AMOUNTS)


def subjects(row: Document) -> Iterator[tuple[str, str]]:
    """The dimensions that a ledger row counts in, and its subject in each; there may be no user."""
    yield "key", row["key_id"]
    yield "automation", row["automation_id"]
    crowd = row.get("crowd", ())
    if row["user_id"] is not None:
        yield "user", OTHERS if "user" in crowd else row["user_id"]
    yield "model", OTHERS if "model" in crowd else row["model"]


def summands(row: Document) -> dict[str, int]:
    """What a ledger row adds to each of its totals."""
    return dict(zip(SUMMED, _summands(row), strict=True))


def _summands(row: Document) -> tuple[int, ...]:
    """What a row adds, in the order of `SUMMED`."""
    outcome = row["outcome"]
    return (
        *_amounts(row),
        1,
        int(outcome == "ok"),
        int(outcome == "ambiguous"),
        int(not row["price_known"]),
    )


@dataclass(slots=True)
class _Sum:
    """What a total grows by, in the order of `SUMMED`."""

    summed: tuple[int, ...]
    least: int
    label: str


def total_updates(rows: Iterable[Document], replaced: Iterable[Document] = ()) -> list[UpdateOne]:
    """One upsert for each total that the rows touch.

    Args:
        rows: that are added to the ledger.
        replaced: that are taken out of it, for rows that say more.
    """
    sums: dict[tuple[str, str, str, str], _Sum] = {}
    for row in rows:
        _add(sums, row, _summands(row))
    for row in replaced:
        _add(sums, row, tuple(map(neg, _summands(row))))
    return [_update(*of, total) for of, total in sums.items()]


def _add(sums: dict[tuple[str, str, str, str], _Sum], row: Document, summed: tuple[int, ...]) -> None:
    day, automation_id, reserved = row["day"], row["automation_id"], row["reserved_tokens"]
    for dimension, subject in subjects(row):
        of = (dimension, day, automation_id, subject)
        total = sums.get(of)
        if total is None:
            label = row["key_alias"] if dimension == "key" else subject
            sums[of] = _Sum(summed, reserved, label)
        else:
            total.summed = tuple(map(add, total.summed, summed))
            total.least = min(total.least, reserved)


def _update(dimension: str, day: str, automation_id: str, subject: str, total: _Sum) -> UpdateOne:
    head = {
        "dimension": dimension,
        "day": day,
        "automation_id": automation_id,
        "subject": subject,
        "label": total.label,
    }
    return UpdateOne(
        {"_id": total_id(dimension, day, automation_id, subject)},
        {
            "$inc": dict(zip(SUMMED, total.summed, strict=True)),
            "$min": {"least_reserved_tokens": total.least},
            "$setOnInsert": head,
        },
        upsert=True,
    )

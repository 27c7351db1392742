"""Totals by key, automation, user and model for each UTC day: sums of ledger rows, and nothing else."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from infra.mongo import Document, UpdateOne
from infra.totals import SUMMED, TOKEN_FIELDS, total_id


def subjects(row: Document) -> Iterator[tuple[str, str]]:
    """The dimensions that a ledger row counts in, and its subject in each; there may be no user."""
    yield "key", row["key_id"]
    yield "automation", row["automation_id"]
    if row["user_id"] is not None:
        yield "user", row["user_id"]
    yield "model", row["model"]


def summands(row: Document) -> dict[str, int]:
    """What a ledger row adds to each of its totals."""
    return {
        **{field: row[field] for field in (*TOKEN_FIELDS, "cost_nanousd", "latency_ms", "reserved_tokens")},
        "attempts": 1,
        "succeeded": int(row["outcome"] == "ok"),
        "ambiguous": int(row["outcome"] == "ambiguous"),
        "unpriced": int(not row["price_known"]),
    }


def total_updates(rows: Iterable[Document], replaced: Iterable[Document] = ()) -> list[UpdateOne]:
    """One upsert for each total that the rows touch.

    Args:
        rows: that are added to the ledger.
        replaced: that are taken out of it, for rows that say more.
    """
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SUMMED, 0))
    least: dict[str, int] = {}
    heads: dict[str, Document] = {}
    for sign, row in (*((1, row) for row in rows), *((-1, row) for row in replaced)):
        added = summands(row)
        for dimension, subject in subjects(row):
            identity = total_id(dimension, row["day"], row["automation_id"], subject)
            total = sums[identity]
            for field, value in added.items():
                total[field] += sign * value
            least[identity] = min(row["reserved_tokens"], least.get(identity, row["reserved_tokens"]))
            heads[identity] = {
                "dimension": dimension,
                "day": row["day"],
                "automation_id": row["automation_id"],
                "subject": subject,
                "label": row["key_alias"] if dimension == "key" else subject,
            }
    return [
        UpdateOne(
            {"_id": identity},
            {
                "$inc": total,
                "$min": {"least_reserved_tokens": least[identity]},
                "$setOnInsert": heads[identity],
            },
            upsert=True,
        )
        for identity, total in sums.items()
    ]

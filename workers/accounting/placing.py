"""Which events are new to the ledger: pure decisions over what is there.

An attempt is one row, found by its event id, however often its event is delivered. Two events of one id are
two attempts only where an automation used a request id again after its result had expired: they ended at
different times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from infra.mongo import Document

#: An ambiguous attempt's time is that of its reservation; its end came so much later at most.
LONGEST_CALL = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Placed:
    """What a batch of rows does to the ledger.

    Attributes:
        added: rows to write, each under its own `_id`.
        replaced: rows that are there, and that those under the same `_id` replace.
        is_new: for each row of the batch whether it is not a repeat.
    """

    added: list[Document]
    replaced: list[Document]
    is_new: list[bool]


def other_id(row: Document) -> str:
    """The `_id` under which an attempt stands where its own is another attempt's: with its time."""
    return f"{row['_id']}@{int(_milliseconds(row['occurred_at']).timestamp() * 1000)}"


def other_ids(rows: Sequence[Document], known: Mapping[str, Document]) -> list[str]:
    """The `_id`s besides their own under which rows of a batch may stand; seldom any.

    Args:
        rows: of the batch.
        known: the ledger's rows under any of their own `_id`s.
    """
    there = dict(known)
    standing = (there.setdefault(row["_id"], row) for row in rows)
    return [
        other_id(row)
        for row, one in zip(rows, standing, strict=True)
        if one is not row and not is_same_attempt(one, row)
    ]


def is_ambiguous(row: Document) -> bool:
    """Whether nobody knows how the attempt ended."""
    return bool(row["outcome"] == "ambiguous")


def is_same_attempt(one: Document, other: Document) -> bool:
    """Whether two rows of the same event id tell of the same attempt."""
    apart = abs(_milliseconds(one["occurred_at"]) - _milliseconds(other["occurred_at"]))
    if is_ambiguous(one) or is_ambiguous(other):
        return apart <= LONGEST_CALL
    return not apart


def place(rows: Sequence[Document], known: Mapping[str, Document]) -> Placed:
    """Find out what is new in a batch.

    A worker that was taken for dead may tell after all how its call ended: that takes the place of an
    ambiguous row, never the other way round.

    Args:
        rows: of the batch, in the order of their delivery.
        known: the ledger's rows under any of the rows' own and other `_id`s.
    """
    there = dict(known)
    added: dict[str, Document] = {}
    replaced: list[Document] = []
    is_new = []
    for row in rows:
        identity = row["_id"]
        standing = there.get(identity)
        if standing is not None and not is_same_attempt(standing, row):
            identity = other_id(row)
            standing = there.get(identity)
        tells_more = standing is not None and is_ambiguous(standing) and not is_ambiguous(row)
        is_new.append(standing is None or tells_more)
        if not is_new[-1]:
            continue
        if standing is not None and identity not in added:
            replaced.append(standing)
        there[identity] = added[identity] = {**row, "_id": identity}
    return Placed(list(added.values()), replaced, is_new)


def _milliseconds(moment: datetime) -> datetime:
    """A time as MongoDB keeps it."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

"""Crowds: of an automation that names models or users without end, the totals of a day stay bounded.

Requests may name any user, and providers and leases any model. The first of a day have totals of their own;
where there are too many, the rest are added up together as `OTHERS`. A row says in which dimensions it was
(`crowd`), so that a rebuild of the totals comes to the same. A user with a budget always has a total, by
which the budget is kept.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from infra.mongo import Document, Mongo, Session, UpdateOne
from infra.totals import total_id

#: The most subjects of a dimension that have totals of their own, of one automation and UTC day.
MOST_SUBJECTS: Final[Mapping[str, int]] = {"model": 500, "user": 50_000}
#: Where in a row a dimension's subject is.
FIELDS: Final[Mapping[str, str]] = {"model": "model", "user": "user_id"}
#: The subject of the totals of all others.
OTHERS: Final = "(others)"


async def mark_crowds(mongo: Mongo, rows: Sequence[Document], session: Session) -> None:
    """Mark those of new ledger rows that are added up with others.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    by_day: dict[tuple[str, str], list[Document]] = {}
    for row in rows:
        by_day.setdefault((row["automation_id"], row["day"]), []).append(row)
    ids = {total_id("automation", day, of, of): (of, day) for of, day in by_day}
    counted: dict[tuple[str, str], Document] = {of_day: {} for of_day in by_day}
    query = {"_id": {"$in": list(ids)}, "subjects": {"$exists": True}}
    async for total in mongo.usage_daily.find(query, {"subjects": 1}, session=session):
        counted[ids[total["_id"]]] = total["subjects"]
    for (automation_id, day), of_day in by_day.items():
        for dimension, most in MOST_SUBJECTS.items():
            room = max(0, most - counted[automation_id, day].get(dimension, 0))
            named = list(dict.fromkeys(row[FIELDS[dimension]] for row in of_day))
            if len(named) > room:
                has_own = await _with_totals(mongo, dimension, (automation_id, day), named, session)
                crowd = set([subject for subject in named if subject not in has_own][room:])
                mark(of_day, dimension, crowd)


def mark(rows: Iterable[Document], dimension: str, crowd: "set[str | None]") -> None:
    """Mark the rows whose subject is one of a crowd."""
    for row in rows:
        if row[FIELDS[dimension]] in crowd:
            row["crowd"] = [*row.get("crowd", ()), dimension]


def count_subjects(upserted: Iterable[str]) -> list[UpdateOne]:
    """The updates that count new totals of models and users, where that of their automation is.

    Args:
        upserted: the `_id`s of totals that are new.
    """
    new: Counter[tuple[str, str, str]] = Counter()
    for identity in upserted:
        dimension, day, automation_id, _ = identity.split("/", 3)
        if dimension in MOST_SUBJECTS:
            new[automation_id, day, dimension] += 1
    return [
        UpdateOne(
            {"_id": total_id("automation", day, automation_id, automation_id)},
            {"$inc": {f"subjects.{dimension}": count}},
        )
        for (automation_id, day, dimension), count in new.items()
    ]


async def _with_totals(
    mongo: Mongo,
    dimension: str,
    of_day: tuple[str, str],
    named: Sequence[str | None],
    session: Session,
) -> "set[str | None]":
    """Which subjects of an automation's day have a total, or are to have one because of a budget."""
    automation_id, day = of_day
    ids = {
        total_id(dimension, day, automation_id, subject): subject for subject in named if subject is not None
    }
    found = mongo.usage_daily.find({"_id": {"$in": list(ids)}}, {"_id": 1}, session=session)
    has_own: set[str | None] = {None, *[ids[total["_id"]] async for total in found]}
    if dimension == "user":
        budgeted = {"automation_id": automation_id, "scope": "user"}
        has_own.update(await mongo.budgets.distinct("subject", budgeted, session=session))
    return has_own

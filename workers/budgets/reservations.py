"""Holds on budgets in MongoDB: the update that admits calls, on the server's clock, and the one that settles.

Each touches a single document, so that any number of workers may run them side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from infra.mongo import Document, Mongo, ReturnDocument
from workers.budgets.budget import Budget, Window, period_at
from workers.keys.expressions import TODAY, held_plus, live_holds, renewed_holds
from workers.keys.leases import LeasedKey

MONTH: Document = {"$dateToString": {"date": "$$NOW", "format": "%Y-%m", "timezone": "UTC"}}
PERIOD: Document = {"$cond": [{"$eq": ["$window", "day"]}, TODAY, MONTH]}


@dataclass(frozen=True, slots=True)
class Claim:
    """What one call holds of one budget; nano-USD."""

    budget_id: str
    window: Window
    hold: str
    amount: int


@dataclass(frozen=True, slots=True)
class Spending:
    """What became of a claim: what the call cost, and when, in seconds since the epoch."""

    claim: Claim
    cost: int
    at: float


def normalise() -> Document:
    """The stage that drops what no longer counts."""
    return {
        "$set": {
            "spent_nanousd": {"$cond": [{"$eq": ["$period", PERIOD]}, "$spent_nanousd", 0]},
            "period": PERIOD,
            "held": live_holds(),
            "server_time": "$$NOW",
        }
    }


def take_pipeline(hold: str, costs: Sequence[int]) -> list[Document]:
    """The update that admits as many calls of these costs as fit, first come first served."""
    used = {"$add": ["$spent_nanousd", {"$sum": "$held.t"}]}
    after = {"$add": ["$$used", "$$value.t", "$$charge"]}
    is_free = {"$and": [{"$lt": ["$spent_nanousd", "$limit_nanousd"]}, {"$lte": [after, "$limit_nanousd"]}]}
    fits = {"$and": ["$$value.open", {"$or": [{"$not": "$hard"}, is_free]}]}
    admitted = {"n": {"$add": ["$$value.n", 1]}, "t": {"$add": ["$$value.t", "$$charge"]}, "open": True}
    full = {"n": "$$value.n", "t": "$$value.t", "open": False}
    granted = {
        "$reduce": {
            "input": {"$literal": list(costs)},
            "initialValue": {"n": 0, "t": 0, "open": True},
            "in": {
                "$let": {
                    "vars": {"charge": {"$min": ["$$this", "$limit_nanousd"]}},
                    "in": {"$cond": [fits, admitted, full]},
                }
            },
        }
    }
    return [
        normalise(),
        {"$set": {"granted": {"$let": {"vars": {"used": used}, "in": granted}}}},
        {"$set": {"held": held_plus(hold, "$granted.n", "$granted.t"), "granted": "$granted.n"}},
    ]


def settle_pipeline(hold: str, batch: Sequence[Spending]) -> list[Document]:
    """The update that gives back what calls held and counts what they cost, each in the period of its end."""
    costs: dict[str, int] = {}
    for spending in batch:
        period = period_at(spending.claim.window, spending.at)
        costs[period] = costs.get(period, 0) + spending.cost
    items = [{"p": period, "c": cost} for period, cost in costs.items()]
    of_period = {"$filter": {"input": {"$literal": items}, "cond": {"$eq": ["$$this.p", "$period"]}}}
    cost = {"$sum": {"$map": {"input": of_period, "in": "$$this.c"}}}
    held = sum(spending.claim.amount for spending in batch)
    return [
        normalise(),
        {
            "$set": {
                "held": held_plus(hold, -len(batch), -held),
                "spent_nanousd": {"$toLong": {"$add": ["$spent_nanousd", cost]}},
            }
        },
    ]


async def take(mongo: Mongo, budget_id: str, hold: str, costs: Sequence[int]) -> tuple[int, Budget] | None:
    """Hold as many as fit of calls that may cost so much.

    Returns:
        How many were admitted, and the budget as it is now; None: there is no such budget any more.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    document = await mongo.budgets_fast.find_one_and_update(
        {"_id": budget_id}, take_pipeline(hold, costs), return_document=ReturnDocument.AFTER
    )
    if document is None:
        return None
    return document["granted"], _seen(document)


async def settle(mongo: Mongo, budget_id: str, hold: str, batch: Sequence[Spending]) -> Budget | None:
    """Give back what calls held of a budget, and count what they cost.

    Returns:
        The budget as it is now; None if it is gone.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    document = await mongo.budgets_fast.find_one_and_update(
        {"_id": budget_id}, settle_pipeline(hold, batch), return_document=ReturnDocument.AFTER
    )
    return None if document is None else _seen(document)


async def lend(mongo: Mongo, claim: Claim, lease: LeasedKey) -> None:
    """Have a lease take over what a worker holds for it; `workers.keys.leases.end_lease` gives it back.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    entry = {"w": lease.id, "n": 1, "t": claim.amount, "until": lease.lapses_at}
    stages: list[Document] = [
        normalise(),
        {"$set": {"held": held_plus(claim.hold, -1, -claim.amount)}},
        {"$set": {"held": {"$concatArrays": ["$held", [entry]]}}},
    ]
    await mongo.budgets_fast.update_one({"_id": claim.budget_id}, stages)


async def renew_budget_holds(mongo: Mongo, hold: str) -> None:
    """Say that a worker's calls are still under way, so that what they hold does not lapse.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    await mongo.budgets_fast.update_many({"held.w": hold}, [{"$set": {"held": renewed_holds(hold)}}])


async def load_budgets(mongo: Mongo, automation_id: str) -> list[Budget]:
    """The budgets of an automation that stop calls: its own, its keys' and its users'.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    stages: list[Document] = [
        {"$match": {"automation_id": automation_id, "hard": True}},
        {"$set": {"server_time": "$$NOW"}},
    ]
    return [_seen(document) async for document in mongo.budgets.aggregate(stages)]


def _seen(document: Document) -> Budget:
    return Budget.from_document(document, document["server_time"].timestamp())

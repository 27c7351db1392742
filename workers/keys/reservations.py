"""Reservations in MongoDB: the updates that admit calls to a key and settle them, on the server's clock.

One `find_one_and_update` admits as many calls of a batch as fit, in their order, and says how many; one
update settles a batch. Both touch a single document, so that any number of workers may run them side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from contracts.messages import Outcome
from infra.mongo import Document, Mongo, ReturnDocument
from workers.keys.health import CIRCUIT_OPEN_MAX_S, CIRCUIT_OPEN_S, Sample, smooth, trailing_failures
from workers.keys.key import Key, Limits
from workers.keys.limits import CIRCUIT_FAILURES, SPAN_S, UNLIMITED

#: A worker's hold on in-flight calls and tokens lapses this long after its last sign of life, in seconds.
HOLD_S = 90
#: How long a model that a key may not use is left out for it, in milliseconds.
MODEL_DENIED_MS = 600_000
#: How long limits that the provider reports are kept to, in seconds; then it is asked again, by calling.
REPORTED_S = 3600
#: What a worker never needs to see of a key's document.
PROJECTION = {"history": 0, "fingerprint": 0}

_NOW_SECOND = {"$toLong": {"$floor": {"$divide": [{"$toLong": "$$NOW"}, 1000]}}}
_TODAY = {"$dateToString": {"date": "$$NOW", "format": "%Y-%m-%d", "timezone": "UTC"}}


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of one reserved call.

    Attributes:
        second: under which it was reserved.
        reserved: tokens that were reserved.
        used: tokens that the provider counted; `reserved` where it is not known.
        sample: what it says of the key's health; None when the key has no part in it.
        cool_ms: leave the key alone for so long, in milliseconds.
        cool_reason: why; of two cooldowns the longer one's reason stands.
        denied_model: the model that this key may not use.
        reported: limits that the provider named when it refused.
    """

    second: int
    reserved: int
    used: int
    sample: Sample | None = None
    cool_ms: int = 0
    cool_reason: Outcome | None = None
    denied_model: str | None = None
    reported: Limits | None = None


def _add_seconds(moment: object, seconds: float) -> Document:
    return {"$add": [moment, int(seconds * 1000)]}


def _normalise() -> Document:
    """Drop what no longer counts, so that what stands in the document is what counts now."""
    return {
        "$set": {
            "window": {
                "$filter": {
                    "input": {"$ifNull": ["$window", []]},
                    "cond": {"$gt": ["$$this.s", {"$subtract": [_NOW_SECOND, SPAN_S]}]},
                }
            },
            "held": {
                "$filter": {"input": {"$ifNull": ["$held", []]}, "cond": {"$gt": ["$$this.until", "$$NOW"]}}
            },
            "day_tokens": {"$cond": [{"$eq": ["$day", _TODAY]}, {"$ifNull": ["$day_tokens", 0]}, 0]},
            "day": _TODAY,
            "server_time": "$$NOW",
        }
    }


def _left(limit: str, used: object) -> Document:
    """What a limit leaves: the operator's or, where it is lower, the one that the provider reports."""
    fresh = {"$gt": ["$reported.until", "$$NOW"]}
    reported = {"$cond": [fresh, {"$ifNull": [f"$reported.{limit}", UNLIMITED]}, UNLIMITED]}
    return {"$subtract": [{"$min": [{"$ifNull": [f"$limits.{limit}", UNLIMITED]}, reported]}, used]}


def _granted(token_counts: Sequence[int]) -> Document:
    """How many of the calls fit, first come first served."""
    held_calls = {"$sum": "$held.n"}
    circuit = {"$cond": [{"$gte": [{"$ifNull": ["$health.failures", 0]}, CIRCUIT_FAILURES]}, 1, UNLIMITED]}
    usable = {
        "$and": [
            {
                "$or": [
                    {"$eq": ["$status", "active"]},
                    {
                        "$and": [
                            {"$eq": ["$status", "exhausted"]},
                            {"$ne": [{"$ifNull": ["$status_until", None]}, None]},
                            {"$lte": ["$status_until", "$$NOW"]},
                        ]
                    },
                ]
            },
            {"$lte": [{"$ifNull": ["$cooled_until", "$$NOW"]}, "$$NOW"]},
        ]
    }
    calls = {
        "$min": [
            _left("requests_per_minute", {"$sum": "$window.n"}),
            _left("max_in_flight", held_calls),
            {"$subtract": [circuit, held_calls]},
        ]
    }
    tokens = {
        "$min": [
            _left("tokens_per_minute", {"$sum": "$window.t"}),
            _left("tokens_per_day", {"$add": ["$day_tokens", {"$sum": "$held.t"}]}),
        ]
    }
    items = [{"i": i, "t": total} for i, total in enumerate(accumulate(token_counts), start=1)]
    fitting = {
        "$filter": {
            "input": {"$literal": items},
            "cond": {"$and": [{"$lte": ["$$this.i", "$$calls"]}, {"$lte": ["$$this.t", "$$tokens"]}]},
        }
    }
    counted = {"$let": {"vars": {"calls": calls, "tokens": tokens}, "in": {"$size": fitting}}}
    return {"$cond": [usable, counted, 0]}


def reserve_pipeline(worker_id: str, token_counts: Sequence[int]) -> list[Document]:
    """The update that admits as many as fit of calls with so many tokens each."""
    totals = [0, *accumulate(token_counts)]
    granted_tokens = {"$arrayElemAt": [{"$literal": totals}, "$granted"]}
    last = {"$last": "$window"}
    entry = {
        "s": {"$max": [_NOW_SECOND, {"$ifNull": ["$$last.s", 0]}]},
        "n": {"$add": ["$$same.n", "$granted"]},
        "t": {"$add": ["$$same.t", granted_tokens]},
    }
    # A server's clock may step back a little: then the second that stands there already is counted on.
    same_second = {"$gte": [{"$ifNull": ["$$last.s", 0]}, _NOW_SECOND]}
    append = {
        "$let": {
            "vars": {"last": last},
            "in": {
                "$let": {
                    "vars": {"same": {"$cond": [same_second, "$$last", {"n": 0, "t": 0}]}},
                    "in": {
                        "$concatArrays": [
                            {"$filter": {"input": "$window", "cond": {"$lt": ["$$this.s", _NOW_SECOND]}}},
                            [entry],
                        ]
                    },
                }
            },
        }
    }
    return [
        _normalise(),
        {"$set": {"granted": _granted(token_counts)}},
        {
            "$set": {
                "window": {"$cond": [{"$gt": ["$granted", 0]}, append, "$window"]},
                "held": _held_plus(worker_id, "$granted", granted_tokens),
                "last_used_at": {"$cond": [{"$gt": ["$granted", 0]}, "$$NOW", "$last_used_at"]},
            }
        },
    ]


def _held_plus(worker_id: str, calls: object, tokens: object) -> Document:
    """The holds with this worker's changed by so much; one of nothing is left out."""
    mine = {"$filter": {"input": "$held", "cond": {"$eq": ["$$this.w", {"$literal": worker_id}]}}}
    others = {"$filter": {"input": "$held", "cond": {"$ne": ["$$this.w", {"$literal": worker_id}]}}}
    changed = {
        "w": {"$literal": worker_id},
        "n": {"$max": [0, {"$add": [{"$sum": "$$mine.n"}, calls]}]},
        "t": {"$max": [0, {"$add": [{"$sum": "$$mine.t"}, tokens]}]},
        "until": _add_seconds("$$NOW", HOLD_S),
    }
    kept = {"$filter": {"input": [changed], "cond": {"$gt": ["$$this.n", 0]}}}
    return {"$let": {"vars": {"mine": mine}, "in": {"$concatArrays": [others, kept]}}}


def settle_pipeline(worker_id: str, batch: Sequence[Settlement]) -> list[Document]:
    """The update that gives back what the calls had reserved and counts what they used."""
    corrections: dict[int, int] = {}
    for settled in batch:
        corrections[settled.second] = corrections.get(settled.second, 0) + settled.used - settled.reserved
    corrected = {
        "$sum": {
            "$map": {
                "input": {
                    "$filter": {
                        "input": {"$literal": [{"s": s, "d": d} for s, d in corrections.items()]},
                        "as": "c",
                        "cond": {"$eq": ["$$c.s", "$$this.s"]},
                    }
                },
                "as": "c",
                "in": "$$c.d",
            }
        }
    }
    window = {
        "$map": {
            "input": "$window",
            "as": "this",
            "in": {"s": "$$this.s", "n": "$$this.n", "t": {"$max": [0, {"$add": ["$$this.t", corrected]}]}},
        }
    }
    changes: Document = {
        "window": window,
        "held": _held_plus(worker_id, -len(batch), -sum(settled.reserved for settled in batch)),
        "day_tokens": {"$add": ["$day_tokens", sum(settled.used for settled in batch)]},
        **_health_changes([settled.sample for settled in batch if settled.sample is not None]),
    }
    longest = max(batch, key=lambda settled: settled.cool_ms)
    if longest.cool_ms:
        until = {"$add": ["$$NOW", longest.cool_ms]}
        longer_stands = {"$gt": ["$cooled_until", until]}
        changes["cooled_until"] = {"$max": ["$cooled_until", until]}
        changes["cool_reason"] = {"$cond": [longer_stands, "$cool_reason", longest.cool_reason]}
    if denied := sorted({settled.denied_model for settled in batch if settled.denied_model}):
        changes["denied_models"] = {
            "$concatArrays": [
                {
                    "$filter": {
                        "input": {"$ifNull": ["$denied_models", []]},
                        "cond": {"$not": [{"$in": ["$$this.model", {"$literal": denied}]}]},
                    }
                },
                [{"model": {"$literal": m}, "until": {"$add": ["$$NOW", MODEL_DENIED_MS]}} for m in denied],
            ]
        }
    if reports := [settled.reported for settled in batch if settled.reported is not None]:
        changes["reported"] = {
            "requests_per_minute": reports[-1].requests_per_minute,
            "tokens_per_minute": reports[-1].tokens_per_minute,
            "until": _add_seconds("$$NOW", REPORTED_S),
        }
    stages = [_normalise(), {"$set": changes}]
    if any(settled.sample is not None and not settled.sample.ok for settled in batch):
        stages.append({"$set": {"cooled_until": _circuit()}})
    return stages


def _circuit() -> Document:
    """The cooldown of a key whose failures in a row opened its circuit; each further one doubles it."""
    beyond = {"$min": [10, {"$subtract": ["$health.failures", CIRCUIT_FAILURES]}]}
    open_s = {"$min": [CIRCUIT_OPEN_MAX_S, {"$multiply": [CIRCUIT_OPEN_S, {"$pow": [2, beyond]}]}]}
    opened_until = {"$add": ["$$NOW", {"$toLong": {"$multiply": [1000, open_s]}}]}
    return {
        "$cond": [
            {"$gte": ["$health.failures", CIRCUIT_FAILURES]},
            {"$max": ["$cooled_until", opened_until]},
            "$cooled_until",
        ]
    }


def _health_changes(samples: Sequence[Sample]) -> Document:
    if not samples:
        return {}
    failures, succeeded = trailing_failures(samples)
    stored = {"$ifNull": ["$health.failures", 0]}
    changes: Document = {
        "health.error_rate": _smoothed("error_rate", [0.0 if sample.ok else 1.0 for sample in samples]),
        "health.failures": failures if succeeded else {"$add": [stored, failures]},
    }
    if latencies := [sample.latency_ms for sample in samples if sample.latency_ms is not None]:
        changes["health.latency_ms"] = _smoothed("latency_ms", latencies)
    return changes


def _smoothed(field: str, samples: Sequence[float]) -> Document:
    folded = smooth(samples)
    start = {"$ifNull": [f"$health.{field}", samples[0]]}
    return {"$add": [{"$multiply": [start, folded.keep]}, folded.add]}


async def reserve(
    mongo: Mongo, key_id: str, worker_id: str, token_counts: Sequence[int]
) -> tuple[int, Key, float] | None:
    """Admit as many as fit of calls with so many tokens each.

    Returns:
        How many were admitted, the key as it is now, and the server's time in seconds; None: no such key.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    document = await mongo.keys_fast.find_one_and_update(
        {"_id": key_id},
        reserve_pipeline(worker_id, token_counts),
        projection=PROJECTION,
        return_document=ReturnDocument.AFTER,
    )
    if document is None:
        return None
    now = document["server_time"].timestamp()
    return document["granted"], Key.from_document(document, now), now


async def settle(mongo: Mongo, key_id: str, worker_id: str, batch: Sequence[Settlement]) -> Key | None:
    """Settle calls that were reserved on one key.

    Returns:
        The key as it is now; None if it is gone.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    document = await mongo.keys_fast.find_one_and_update(
        {"_id": key_id},
        settle_pipeline(worker_id, batch),
        projection=PROJECTION,
        return_document=ReturnDocument.AFTER,
    )
    return None if document is None else Key.from_document(document, document["server_time"].timestamp())


async def renew_holds(mongo: Mongo, worker_id: str) -> None:
    """Say that this worker's calls are still under way, so that its holds do not lapse.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    renewed = {
        "$map": {
            "input": "$held",
            "in": {
                "$cond": [
                    {"$eq": ["$$this.w", {"$literal": worker_id}]},
                    {"$mergeObjects": ["$$this", {"until": _add_seconds("$$NOW", HOLD_S)}]},
                    "$$this",
                ]
            },
        }
    }
    await mongo.keys_fast.update_many({"held.w": worker_id}, [{"$set": {"held": renewed}}])


async def load_keys(mongo: Mongo, automation_id: str) -> tuple[list[Key], float | None]:
    """Every key of an automation, and the server's time in seconds (None where there is no key).

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    stages: list[Document] = [
        {"$match": {"automation_id": automation_id}},
        {"$set": {"server_time": "$$NOW"}},
        {"$unset": list(PROJECTION)},
    ]
    documents = [document async for document in mongo.keys.aggregate(stages)]
    now = documents[0]["server_time"].timestamp() if documents else None
    return [Key.from_document(document, now or 0.0) for document in documents], now

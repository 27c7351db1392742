"""What a key's document means, as MongoDB's expressions; `limits.py` says the same in Python.

Everything is on MongoDB's own clock (`$$NOW`), so that workers need no synchronised clocks. What every
reservation asks is built once, and never changed.
"""

from datetime import UTC, datetime
from functools import cache, lru_cache

from infra.mongo import Document
from workers.keys.limits import CIRCUIT_FAILURES, RAMP_S, RAMP_STEP_S, SPAN_S, UNLIMITED

#: A worker's hold on calls in flight and their tokens lapses so long after its last sign of life, in seconds.
HOLD_S = 90

NOW_SECOND: Document = {"$toLong": {"$floor": {"$divide": [{"$toLong": "$$NOW"}, 1000]}}}
TODAY: Document = {"$dateToString": {"date": "$$NOW", "format": "%Y-%m-%d", "timezone": "UTC"}}
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
#: Models whose expressions are kept.
MODELS = 256
#: Failures in a row.
FAILURES: Document = {"$ifNull": ["$health.failures", 0]}


def plus_ms(moment: object, milliseconds: object) -> Document:
    """A moment so many milliseconds later."""
    return {"$add": [moment, {"$toLong": milliseconds}]}


def fade(since: str, until: str) -> Document:
    """A share that falls evenly from 1 at `since` to 0 at `until`."""
    left = {"$subtract": [{"$ifNull": [until, LONG_AGO]}, "$$NOW"]}
    whole = {"$subtract": [{"$ifNull": [until, LONG_AGO]}, {"$ifNull": [since, LONG_AGO]}]}
    faded = {"$min": [1, {"$divide": [left, {"$max": [whole, 1]}]}]}
    return {"$cond": [{"$gt": [left, 0]}, faded, 0]}


def of_model(field: str, model: str, name: str = "m") -> Document:
    """The entries of an array that are of one model."""
    return {
        "$filter": {
            "input": {"$ifNull": [field, []]},
            "cond": {"$eq": [f"$$this.{name}", {"$literal": model}]},
        }
    }


def counted_of_model(model: str, counted: str) -> Document:
    """Requests (`n`) or tokens (`t`) of a model that count in this minute: made, or leased to be made."""
    both = {"$concatArrays": [of_model("$window", model), of_model("$leased", model)]}
    return {"$sum": {"$map": {"input": both, "in": f"$$this.{counted}"}}}


def live_holds() -> Document:
    """`held`, without the holds of workers that are gone."""
    return {"$filter": {"input": {"$ifNull": ["$held", []]}, "cond": {"$gt": ["$$this.until", "$$NOW"]}}}


def live_leases() -> Document:
    """`leased`, without those whose time is over."""
    return {"$filter": {"input": {"$ifNull": ["$leased", []]}, "cond": {"$gt": ["$$this.until", "$$NOW"]}}}


def held_plus(worker_id: str, calls: object, tokens: object) -> Document:
    """The holds with this worker's changed by so much; one of nothing is left out."""
    mine = {"$filter": {"input": "$held", "cond": {"$eq": ["$$this.w", {"$literal": worker_id}]}}}
    others = {"$filter": {"input": "$held", "cond": {"$ne": ["$$this.w", {"$literal": worker_id}]}}}
    changed = {
        "w": {"$literal": worker_id},
        "n": {"$max": [0, {"$add": [{"$sum": "$$mine.n"}, calls]}]},
        "t": {"$max": [0, {"$add": [{"$sum": "$$mine.t"}, tokens]}]},
        "until": plus_ms("$$NOW", HOLD_S * 1000),
    }
    kept = {"$filter": {"input": [changed], "cond": {"$gt": ["$$this.n", 0]}}}
    return {"$let": {"vars": {"mine": mine}, "in": {"$concatArrays": [others, kept]}}}


def renewed_holds(worker_id: str) -> Document:
    """The holds with this worker's lapsing later."""
    later = {"$mergeObjects": ["$$this", {"until": plus_ms("$$NOW", HOLD_S * 1000)}]}
    mine = {"$eq": ["$$this.w", {"$literal": worker_id}]}
    return {"$map": {"input": "$held", "in": {"$cond": [mine, later, "$$this"]}}}


@cache
def normalise() -> Document:
    """The stage that drops what no longer counts, so that what stands in the document is what counts now."""
    return {
        "$set": {
            "window": {
                "$filter": {
                    "input": {"$ifNull": ["$window", []]},
                    "cond": {"$gt": ["$$this.s", {"$subtract": [NOW_SECOND, SPAN_S]}]},
                }
            },
            "held": live_holds(),
            "leased": live_leases(),
            "day_tokens": {"$cond": [{"$eq": ["$day", TODAY]}, {"$ifNull": ["$day_tokens", 0]}, 0]},
            "day": TODAY,
            "server_time": "$$NOW",
        }
    }


def window_plus(model: str, calls: object, tokens: object) -> Document:
    """The window with calls of a model counted in this second.

    A server's clock may step back a little: then the second that stands there already is counted on.
    """
    second = {"$max": [NOW_SECOND, {"$ifNull": [{"$last": "$window.s"}, 0]}]}
    of_second = {"$eq": ["$$this.s", "$$second"]}
    same = {"$first": {"$filter": {"input": of_model("$window", model), "cond": of_second}}}
    others = {
        "$filter": {
            "input": "$window",
            "cond": {"$or": [{"$not": of_second}, {"$ne": ["$$this.m", {"$literal": model}]}]},
        }
    }
    entry = {
        "s": "$$second",
        "m": {"$literal": model},
        "n": {"$add": [{"$ifNull": ["$$same.n", 0]}, calls]},
        "t": {"$add": [{"$ifNull": ["$$same.t", 0]}, tokens]},
    }
    appended = {"$let": {"vars": {"same": same}, "in": {"$concatArrays": [others, [entry]]}}}
    return {"$let": {"vars": {"second": second}, "in": appended}}


def is_in_service() -> Document:
    """Whether the key may be called, limits and cooldown aside (`Key.is_usable`)."""
    over = {
        "$and": [
            {"$eq": ["$status", "exhausted"]},
            {"$ne": [{"$ifNull": ["$status_until", None]}, None]},
            {"$lte": ["$status_until", "$$NOW"]},
        ]
    }
    return {"$or": [{"$eq": ["$status", "active"]}, over]}


@cache
def is_usable() -> Document:
    """Whether the key may be called, limits aside: in service, and not cooled down."""
    is_cool = {"$lte": [{"$ifNull": ["$cooled_until", "$$NOW"]}, "$$NOW"]}
    return {"$and": [is_in_service(), is_cool]}


@lru_cache(MODELS)
def calls_left(model: str) -> Document:
    """How many more calls of a model fit, their tokens aside."""
    held = {"$add": [{"$sum": "$held.n"}, {"$sum": "$leased.n"}]}
    counted = {"$add": [{"$sum": "$window.n"}, {"$sum": "$leased.n"}]}
    return {
        "$min": [
            _left("$limits.requests_per_minute", counted),
            _left("$limits.max_in_flight", held),
            {"$subtract": [_in_flight_allowed(), held]},
            _left_of_model(model, "requests_per_minute", "outside_requests", "n"),
        ]
    }


@lru_cache(MODELS)
def tokens_left(model: str) -> Document:
    """How many more tokens of a model fit."""
    leased = {"$sum": "$leased.t"}
    return {
        "$min": [
            _left("$limits.tokens_per_minute", {"$add": [{"$sum": "$window.t"}, leased]}),
            _left("$limits.tokens_per_day", {"$add": ["$day_tokens", {"$sum": "$held.t"}, leased]}),
            _left_of_model(model, "tokens_per_minute", "outside_tokens", "t"),
        ]
    }


def _left(limit: str, used: object) -> Document:
    return {"$subtract": [{"$ifNull": [limit, UNLIMITED]}, used]}


def _in_flight_allowed() -> Document:
    """One call while the circuit is half-open, then twice as many with each step (`in_flight_limit`)."""
    since_ms = {"$subtract": ["$$NOW", {"$ifNull": ["$ramp_since", LONG_AGO]}]}
    steps = {"$floor": {"$divide": [since_ms, RAMP_STEP_S * 1000]}}
    ramping = {"$and": [{"$gte": [since_ms, 0]}, {"$lt": [since_ms, RAMP_S * 1000]}]}
    ramp = {"$cond": [ramping, {"$pow": [2, steps]}, UNLIMITED]}
    return {"$cond": [{"$gte": [FAILURES, CIRCUIT_FAILURES]}, 1, ramp]}


def _left_of_model(model: str, limit: str, outside: str, counted: str) -> Document:
    """What the provider's limit for the model leaves, beside our own use and that of others."""
    fresh = {"$gt": ["$$this.until", "$$NOW"]}
    reported = {"$filter": {"input": of_model("$reported", model, "model"), "cond": fresh}}
    ours = counted_of_model(model, counted)
    others = {
        "$ceil": {
            "$multiply": [
                {"$ifNull": [f"$$reported.{outside}", 0]},
                fade("$$reported.outside_since", "$$reported.outside_until"),
            ]
        }
    }
    return {
        "$let": {
            "vars": {"reported": {"$first": reported}},
            "in": {
                "$subtract": [
                    {"$ifNull": [f"$$reported.{limit}", UNLIMITED]},
                    {"$add": [ours, others]},
                ]
            },
        }
    }

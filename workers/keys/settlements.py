"""Settlements in MongoDB: the update that gives reservations back and learns what became of their calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from contracts.messages import Outcome
from infra.bulk_writes import write_all
from infra.mongo import Document, Mongo, ReturnDocument, UpdateOne
from workers.keys.expressions import FAILURES, counted_of_model, fade, held_plus, normalise, of_model, plus_ms
from workers.keys.health import CIRCUIT_OPEN_MAX_S, CIRCUIT_OPEN_S, Sample, smooth, trailing_failures
from workers.keys.key import Key, WindowEntry
from workers.keys.limits import CIRCUIT_FAILURES, today, used_today
from workers.keys.reported import LONGEST_RESET_MS, REPORTED_S, SHORTEST_RESET_MS, RateLimits, merged
from workers.keys.reservations import PROJECTION

#: Models of which a key's document remembers something; the oldest word goes first.
MOST_REMEMBERED = 64
#: How long a model that a key may not use is left out for it, in milliseconds.
MODEL_DENIED_MS = 600_000


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a reserved call, or of several that were not made.

    Attributes:
        second: under which it was reserved.
        reserved: tokens that were reserved.
        used: tokens that the provider counted; `reserved` where it is not known.
        model: of the call; empty where it named none.
        sample: what it says of the key's health; None when the key has no part in it.
        cool_ms: leave the key alone for so long, in milliseconds.
        cool_reason: why; of two cooldowns the longer one's reason stands.
        denies_model: whether the key may not use the model.
        rate_limits: what the provider said of its limits, where that is news.
        cost_nanousd: what the call cost, for budgets; 0 where nobody knows, as in the books.
        unmade: how many calls were not made, and count in no minute; None: one was made.
    """

    second: int
    reserved: int
    used: int
    model: str = ""
    sample: Sample | None = None
    cool_ms: int = 0
    cool_reason: Outcome | None = None
    denies_model: bool = False
    rate_limits: RateLimits | None = None
    cost_nanousd: int = 0
    unmade: int | None = None

    @property
    def bare(self) -> Self:
        """The same with nothing but what the reservation has written: what was used is not known."""
        return type(self)(self.second, self.reserved, self.reserved, self.model, unmade=self.unmade)

    @property
    def calls(self) -> int:
        """How many calls are under way no longer."""
        return 1 if self.unmade is None else self.unmade

    @property
    def is_plain(self) -> bool:
        """Whether it says nothing that changes how the key is used: its count, and a good answer at most."""
        return not (
            (self.sample is not None and not self.sample.ok)
            or self.cool_ms
            or self.denies_model
            or self.rate_limits is not None
        )


def settle_pipeline(worker_id: str, batch: Sequence[Settlement]) -> list[Document]:
    """The update that gives back what the calls had reserved and counts what they used."""
    samples = [settled.sample for settled in batch if settled.sample is not None]
    changes: Document = {
        "window": _corrected_window(batch),
        "held": held_plus(worker_id, -_calls(batch), -_reserved(batch)),
        "day_tokens": {"$add": ["$day_tokens", _used(batch)]},
        **(_health_changes(samples) if samples else {}),
        **_cooldown(batch, samples),
    }
    if denied := sorted({settled.model for settled in batch if settled.denies_model}):
        until = plus_ms("$$NOW", MODEL_DENIED_MS)
        changes["denied_models"] = _replaced(
            "$denied_models", denied, [{"model": {"$literal": model}, "until": until} for model in denied]
        )
    stages: list[Document] = [normalise(), {"$set": changes}]
    words: dict[str, list[RateLimits]] = {}
    for settled in batch:
        if settled.rate_limits is not None:
            words.setdefault(settled.model, []).append(settled.rate_limits)
    if words:
        entries = [_reported(model, merged(said)) for model, said in words.items()]
        stages.append({"$set": {"reported": _replaced("$reported", list(words), entries)}})
    return stages


def _calls(batch: Sequence[Settlement]) -> int:
    return sum(settled.calls for settled in batch)


def _reserved(batch: Sequence[Settlement]) -> int:
    return sum(settled.reserved for settled in batch)


def _used(batch: Sequence[Settlement]) -> int:
    return sum(settled.used for settled in batch)


def _corrections(batch: Sequence[Settlement]) -> dict[tuple[int, str], tuple[int, int]]:
    """How many requests and tokens more than reserved there were, by second and model."""
    corrections: dict[tuple[int, str], tuple[int, int]] = {}
    for settled in batch:
        place = settled.second, settled.model
        requests, tokens = corrections.get(place, (0, 0))
        corrections[place] = requests - (settled.unmade or 0), tokens + settled.used - settled.reserved
    return corrections


def _corrected_window(batch: Sequence[Settlement]) -> Document:
    """The window with what was called, and its tokens, in the second in which they were reserved."""
    items = [
        {"s": second, "m": model, "n": requests, "t": tokens}
        for (second, model), (requests, tokens) in _corrections(batch).items()
    ]
    here = {"$and": [{"$eq": ["$$c.s", "$$this.s"]}, {"$eq": ["$$c.m", "$$this.m"]}]}
    found = {"$first": {"$filter": {"input": {"$literal": items}, "as": "c", "cond": here}}}

    def corrected(counted: str) -> Document:
        change = {"$ifNull": [f"$$found.{counted}", 0]}
        return {"$max": [0, {"$add": [f"$$this.{counted}", change]}]}

    entry = {"$mergeObjects": ["$$this", {"n": corrected("n"), "t": corrected("t")}]}
    return {
        "$map": {"input": "$window", "in": {"$let": {"vars": {"found": found}, "in": entry}}},
    }


def _replaced(field: str, models: Sequence[str], entries: list[Document]) -> Document:
    """An array of one entry a model, with those of these models replaced, and without those that are over."""
    is_another = {"$not": [{"$in": ["$$this.model", {"$literal": list(models)}]}]}
    kept = {
        "$filter": {
            "input": {"$ifNull": [field, []]},
            "cond": {"$and": [is_another, {"$gt": ["$$this.until", "$$NOW"]}]},
        }
    }
    return {"$slice": [{"$concatArrays": [kept, entries]}, -MOST_REMEMBERED]}


def _health_changes(samples: Sequence[Sample]) -> Document:
    changes: Document = {
        "health.error_rate": _smoothed("error_rate", [0.0 if sample.ok else 1.0 for sample in samples]),
        "health.failures": _failures_after(samples),
    }
    if latencies := [sample.latency_ms for sample in samples if sample.latency_ms is not None]:
        changes["health.latency_ms"] = _smoothed("latency_ms", latencies)
    if any(sample.ok for sample in samples):
        was_open = {"$gte": [FAILURES, CIRCUIT_FAILURES]}
        changes["ramp_since"] = {"$cond": [was_open, "$$NOW", "$ramp_since"]}
    return changes


def _smoothed(field: str, samples: Sequence[float]) -> Document:
    folded = smooth(samples)
    start = {"$ifNull": [f"$health.{field}", samples[0]]}
    return {"$add": [{"$multiply": [start, folded.keep]}, folded.add]}


def _is_open() -> Document:
    """Whether the circuit is open: what fails now was under way when it opened, and says nothing new."""
    cooled = {"$gt": ["$cooled_until", "$$NOW"]}
    return {"$and": [{"$gte": [FAILURES, CIRCUIT_FAILURES]}, cooled]}


def _failures_after(samples: Sequence[Sample]) -> Document | int:
    """Failures in a row with these; the first to open the circuit and each failed trial count once."""
    failures, succeeded = trailing_failures(samples)
    if succeeded or not failures:
        return min(failures, CIRCUIT_FAILURES)
    half_open = {"$gte": [FAILURES, CIRCUIT_FAILURES]}
    closed = {"$min": [{"$add": [FAILURES, failures]}, CIRCUIT_FAILURES]}
    return {"$cond": [_is_open(), FAILURES, {"$cond": [half_open, {"$add": [FAILURES, 1]}, closed]}]}


def _cooldown(batch: Sequence[Settlement], samples: Sequence[Sample]) -> Document:
    """The longest of the key's cooldown, of what the provider asks for, and of a circuit that opens."""
    changes: Document = {}
    untils: list[object] = ["$cooled_until"]
    longest = max(batch, key=lambda settled: settled.cool_ms)
    if longest.cool_ms:
        until = plus_ms("$$NOW", longest.cool_ms)
        longer_stands = {"$gt": ["$cooled_until", until]}
        changes["cool_reason"] = {"$cond": [longer_stands, "$cool_reason", longest.cool_reason]}
        untils.append(until)
    if any(not sample.ok for sample in samples):
        after = _failures_after(samples)
        opens = {"$and": [{"$gte": [after, CIRCUIT_FAILURES]}, {"$not": _is_open()}]}
        doublings = {"$min": [10, {"$subtract": [after, CIRCUIT_FAILURES]}]}
        open_s = {"$min": [CIRCUIT_OPEN_MAX_S, {"$multiply": [CIRCUIT_OPEN_S, {"$pow": [2, doublings]}]}]}
        until = plus_ms("$$NOW", {"$multiply": [1000, open_s]})
        untils.append({"$cond": [opens, until, "$cooled_until"]})
    return {**changes, "cooled_until": {"$max": untils}} if len(untils) > 1 else {}


def _reported(model: str, word: RateLimits) -> Document:
    """What is remembered of a model: its limits, and what others use of them (`reported.py`)."""
    old = {"$first": of_model("$reported", model, "model")}

    def outside(used: int, counted: str, field: str) -> Document:
        measured = {"$subtract": [used, counted_of_model(model, counted)]}
        share = fade("$$old.outside_since", "$$old.outside_until")
        faded = {"$ceil": {"$multiply": [{"$ifNull": [f"$$old.{field}", 0]}, share]}}
        return {"$toLong": {"$max": [0, measured, faded]}}

    reset_ms = min(max(word.reset_ms, SHORTEST_RESET_MS), LONGEST_RESET_MS)
    entry = {
        "model": {"$literal": model},
        "requests_per_minute": word.requests_per_minute,
        "tokens_per_minute": word.tokens_per_minute,
        "until": plus_ms("$$NOW", REPORTED_S * 1000),
        "outside_requests": outside(word.requests_used, "n", "outside_requests"),
        "outside_tokens": outside(word.tokens_used, "t", "outside_tokens"),
        "outside_since": "$$NOW",
        "outside_until": plus_ms("$$NOW", reset_ms),
    }
    return {"$let": {"vars": {"old": old}, "in": entry}}


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


async def settle_plain(
    mongo: Mongo, batches: Mapping[tuple[str, str], Sequence[Settlement]]
) -> "set[tuple[str, str]]":
    """Settle plain settlements of many keys with one command.

    Args:
        mongo: where the keys are.
        batches: by key id and hold.

    Returns:
        Those that MongoDB refused, which have changed nothing.

    Raises:
        PyMongoError: MongoDB is away, or nobody knows what is kept.
        Exception: one of them can't be encoded; none was written.
    """
    places = list(batches)
    updates = [
        UpdateOne({"_id": key_id}, settle_pipeline(hold, batches[key_id, hold])) for key_id, hold in places
    ]
    return {places[index] for index in await write_all(mongo.keys_fast, updates)}


def settled_view(key: Key, batch: Sequence[Settlement], now: float) -> Key:
    """A view of a key after plain settlements, as `settle_pipeline` leaves its document.

    Args:
        key: as last seen, with its circuit closed.
        batch: plain settlements.
        now: the server's time, in seconds since the epoch.
    """
    corrections = _corrections(batch)
    window = []
    for entry in key.window:
        requests, tokens = corrections.get((entry.second, entry.model), (0, 0))
        corrected = max(0, entry.requests + requests), max(0, entry.tokens + tokens)
        window.append(WindowEntry(entry.second, *corrected, entry.model))
    samples = [settled.sample for settled in batch if settled.sample is not None]
    latencies = [sample.latency_ms for sample in samples if sample.latency_ms is not None]
    return replace(
        key,
        window=tuple(window),
        held_calls=max(0, key.held_calls - _calls(batch)),
        held_tokens=max(0, key.held_tokens - _reserved(batch)),
        day=today(now),
        day_tokens=used_today(key, now) + _used(batch),
        error_rate=key.error_rate * smooth([0.0] * len(samples)).keep,
        failures_in_a_row=0 if samples else key.failures_in_a_row,
        latency_ms=_smoothed_view(key.latency_ms, latencies),
    )


def _smoothed_view(old: float, samples: Sequence[float]) -> float:
    if not samples:
        return old
    folded = smooth(samples)
    return (old or samples[0]) * folded.keep + folded.add

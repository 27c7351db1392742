"""How loaded keys are: what counts against their limits now, added up by MongoDB for many keys at once."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from pydantic import TypeAdapter, ValidationError

from infra.mongo import Document, Mongo, PyMongoError
from infra.mongo_errors import may_pass
from workers.keys.expressions import is_in_service, normalise
from workers.keys.key import Limits

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KeyLoad:
    """A key's state, and what is used of its limits.

    Attributes:
        is_usable: whether it may be called, limits and cooldown aside.
        requests: that count in this minute.
        tokens: that count in this minute.
        day_tokens: of the UTC day, with those reserved for calls under way.
        held_calls: calls under way, leased ones among them.
        held_tokens: reserved for them.
        latency_s: of its calls, smoothed; 0 where there was none.
        error_ratio: of its calls, smoothed, 0 to 1.
    """

    automation_id: str
    alias: str
    status: str
    is_usable: bool
    limits: Limits
    requests: int
    tokens: int
    day_tokens: int
    held_calls: int
    held_tokens: int
    latency_s: float
    error_ratio: float

    @property
    def utilisation(self) -> dict[str, float]:
        """The used fraction of each limit that the operator has set, by its name."""
        limits = self.limits
        used = {
            "requests_per_minute": (self.requests, limits.requests_per_minute),
            "tokens_per_minute": (self.tokens, limits.tokens_per_minute),
            "tokens_per_day": (self.day_tokens, limits.tokens_per_day),
            "in_flight": (self.held_calls, limits.max_in_flight),
        }
        return {name: count / limit for name, (count, limit) in used.items() if limit}


_LOAD = TypeAdapter(KeyLoad)


async def key_loads(mongo: Mongo) -> AsyncIterator[KeyLoad]:
    """The load of every key, without those whose document can't be read.

    Raises:
        PyMongoError: MongoDB is away.
    """
    stages: list[Document] = [normalise(), {"$project": FIELDS}]
    try:
        documents = [document async for document in mongo.keys.aggregate(stages)]
    except PyMongoError as error:
        if may_pass(error):
            raise
        documents = await _readable(mongo, stages)
    for document in documents:
        try:
            load = _LOAD.validate_python(document)
        except ValidationError:
            log.warning("key_not_read", automation_id=document.get("automation_id"))
        else:
            yield load


async def _readable(mongo: Mongo, stages: list[Document]) -> list[Document]:
    """Ask for one key at a time, and leave out those that MongoDB can't calculate with."""
    documents: list[Document] = []
    async for key in mongo.keys.find({}, {"_id": 1}):
        try:
            documents += [one async for one in mongo.keys.aggregate([{"$match": key}, *stages])]
        except PyMongoError as error:
            if may_pass(error):
                raise
            log.warning("key_not_read", key_id=key["_id"], error=type(error).__name__)
    return documents


def _with_leased(field: str, counted: str) -> Document:
    return {"$add": [{"$sum": f"${field}.{counted}"}, {"$sum": f"$leased.{counted}"}]}


FIELDS: Document = {
    "_id": 0,
    "automation_id": 1,
    "alias": 1,
    "status": 1,
    "limits": 1,
    "is_usable": is_in_service(),
    "requests": _with_leased("window", "n"),
    "tokens": _with_leased("window", "t"),
    "held_calls": _with_leased("held", "n"),
    "held_tokens": _with_leased("held", "t"),
    "day_tokens": {"$add": ["$day_tokens", _with_leased("held", "t")]},
    "latency_s": {"$divide": [{"$ifNull": ["$health.latency_ms", 0]}, 1000]},
    "error_ratio": {"$ifNull": ["$health.error_rate", 0]},
}

"""The totals that accounting keeps of each UTC day: their names, and what they say of costs."""

from collections.abc import AsyncIterable
from dataclasses import dataclass

from infra.mongo import Document
from infra.stored_documents import StoredDocuments

DIMENSIONS = ("key", "automation", "user", "model")
TOKEN_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
#: What a total adds up, over the rows of its subject and day.
SUMMED = (
    *TOKEN_FIELDS,
    "cost_nanousd",
    "latency_ms",
    "reserved_tokens",
    "attempts",
    "succeeded",
    "ambiguous",
    "unpriced",
)


def total_id(dimension: str, day: str, automation_id: str, subject: str) -> str:
    """The `_id` of a total."""
    return f"{dimension}/{day}/{automation_id}/{subject}"


@dataclass(frozen=True, slots=True)
class CostTotal:
    """What a total says that its subject cost, in nano-USD."""

    id: str
    automation_id: str
    cost_nanousd: int


_DOCUMENTS = StoredDocuments("usage_daily", CostTotal)
#: The fields of a total's document that `readable_costs` needs.
COST_FIELDS = {"automation_id": 1, "cost_nanousd": 1}


async def readable_costs(found: AsyncIterable[Document]) -> list[CostTotal]:
    """What totals say, without those whose document can't be read, which are logged.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    documents = [document async for document in found]
    return _DOCUMENTS.readable(
        documents, lambda total: CostTotal(total["_id"], total["automation_id"], total["cost_nanousd"])
    )


@dataclass(frozen=True, slots=True)
class _Total:
    automation_id: str
    subject: str
    label: str
    sums: dict[str, int]


_TOTALS = StoredDocuments("usage_daily", _Total)


async def sound_totals(found: AsyncIterable[Document]) -> list[Document]:
    """Documents of totals, without those that can't be read, which are logged.

    Args:
        found: with `automation_id` and `subject`; of what they add up, they may hold a part.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    return _TOTALS.sound([document async for document in found], _total)


def _total(document: Document) -> _Total:
    sums = {name: document[name] for name in SUMMED if name in document}
    return _Total(document["automation_id"], document["subject"], document.get("label", ""), sums)

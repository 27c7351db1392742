"""What tokens cost: prices from `genai-prices`, or set by hand; money in whole nano-USD.

Prices that were set by hand stand in collection `prices`, and are read again from there every few seconds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Annotated, Any, Final, Self

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from pydantic import Field

from infra.mongo import Mongo
from infra.stored_documents import StoredDocuments

NANO: Final = Decimal(1_000_000_000)
MILLION: Final = 1_000_000
#: How often prices that were set by hand are read again, in seconds.
REFRESH_S = 5.0
#: How a provider names a model's dated version, such as `gpt-4o-2024-08-06`.
DATED: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens of a model cost, in nano-USD."""

    input: Annotated[int, Field(ge=0)]
    output: Annotated[int, Field(ge=0)]
    cached: Annotated[int, Field(ge=0)]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a document of collection `prices`."""
        return cls(document["input"], document["output"], document["cached"])


_DOCUMENTS = StoredDocuments("prices", Price)
#: This process's prices that were set by hand, by model.
_by_hand: dict[str, Price] = {}


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one attempt; `known` is false where the model has no price, and then `nanousd` is 0."""

    nanousd: int
    known: bool


@lru_cache(maxsize=4096)
def cost(model: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Cost:
    """What one attempt costs.

    Args:
        model: as the provider named it in its answer.
        prompt_tokens: all input tokens, the cached ones among them.
        completion_tokens: all output tokens, the reasoning ones among them.
        cached_tokens: input tokens that the provider bills as cached.
    """
    if (price := _by_hand.get(model) or _by_hand.get(DATED.sub("", model))) is not None:
        cached = min(cached_tokens, prompt_tokens)
        nanousd = (
            (prompt_tokens - cached) * price.input + cached * price.cached + completion_tokens * price.output
        )
        return Cost(int((Decimal(nanousd) / MILLION).to_integral_value(ROUND_HALF_EVEN)), known=True)
    usage = PricedUsage(
        input_tokens=prompt_tokens,
        output_tokens=completion_tokens,
        cache_read_tokens=min(cached_tokens, prompt_tokens),
    )
    try:
        priced = calc_price(usage, model, provider_id="openai")
    except LookupError:
        return Cost(0, known=False)
    return Cost(int((priced.total_price * NANO).to_integral_value(ROUND_HALF_EVEN)), known=True)


def set_by_hand(prices: Mapping[str, Price]) -> None:
    """Have this process go by these prices, in place of those that were set by hand before."""
    if prices != _by_hand:
        _by_hand.clear()
        _by_hand.update(prices)
        cost.cache_clear()


def is_priced(model: str, by_hand: Mapping[str, Any]) -> bool:
    """Whether a model has a price among those set by hand, under its name or without its date."""
    return model in by_hand or DATED.sub("", model) in by_hand


async def load_prices(mongo: Mongo) -> None:
    """Read the prices that were set by hand, without those that can't be read, which are logged.

    Raises:
        PyMongoError: MongoDB is away or refused.
    """
    documents = [document async for document in mongo.prices.find()]
    found = _DOCUMENTS.sound(documents, Price.from_document)
    set_by_hand({document["_id"]: Price.from_document(document) for document in found})

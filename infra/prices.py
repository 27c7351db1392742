"""What tokens cost: prices from `genai-prices`, money in whole nano-USD."""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Final

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

NANO: Final = Decimal(1_000_000_000)


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
    usage = PricedUsage(
        input_tokens=prompt_tokens,
        output_tokens=completion_tokens,
        cache_read_tokens=min(cached_tokens, prompt_tokens),
    )
    try:
        price = calc_price(usage, model, provider_id="openai")
    except LookupError:
        return Cost(0, known=False)
    return Cost(int((price.total_price * NANO).to_integral_value(ROUND_HALF_EVEN)), known=True)

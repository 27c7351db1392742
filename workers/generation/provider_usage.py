"""What the provider says that a call used: its counts and its model, within bounds.

Where one number can't be true, none of the provider's counts, and the books say why (`usage_problem`).
"""

from collections.abc import Iterator
from typing import Any, Final

from contracts.messages import Usage
from infra.bounds import LONGEST_MODEL, MOST_TOKENS, is_count, is_text

#: Chat completions and embeddings say the first, responses and images the second.
PROMPT: Final = ("prompt_tokens", "input_tokens")
COMPLETION: Final = ("completion_tokens", "output_tokens")
TOTAL: Final = ("total_tokens",)
#: Where the details are.
PROMPT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details")
COMPLETION_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")
CACHED: Final = ("cached_tokens",)
REASONING: Final = ("reasoning_tokens",)
#: Stands for a count that can't be true.
_UNTRUE: Final = -1


def usage_of(answer: dict[str, Any]) -> Usage | None:
    """The tokens that the provider counted; None where it does not say, or one of them can't be true."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion, total = (_count(usage, names) for names in (PROMPT, COMPLETION, TOTAL))
    if prompt is None and completion is None:
        return None
    known = (prompt or 0) + (completion or 0)
    counts = (
        prompt or 0,
        completion or 0,
        known if total is None else total,
        _count(_details(usage, PROMPT_DETAILS), CACHED) or 0,
        _count(_details(usage, COMPLETION_DETAILS), REASONING) or 0,
    )
    if min(counts) < 0 or max(counts) > MOST_TOKENS:
        return None
    return Usage.model_construct(
        prompt_tokens=counts[0],
        completion_tokens=counts[1],
        total_tokens=counts[2],
        cached_tokens=counts[3],
        reasoning_tokens=counts[4],
    )


def untrue_usage(answer: dict[str, Any]) -> str | None:
    """Which of the provider's counts can't be true, for people; None where `usage_of` read all of them."""
    usage = answer.get("usage")
    if not isinstance(usage, dict) or _is_silent(usage) or usage_of(answer) is not None:
        return None
    for of, names in _groups(usage):
        if _count(of, names) == _UNTRUE:
            name = next(name for name in names if _is_number(of.get(name)))
            return f"the provider's {name} is no count of at most {MOST_TOKENS} tokens"
    return f"the provider counts more than {MOST_TOKENS} tokens"


def model_of(answer: dict[str, Any]) -> str | None:
    """The model that the provider says has answered; None where it does not say, or no model is called so."""
    model = answer.get("model")
    return model if is_text(model, LONGEST_MODEL) else None


def _is_silent(usage: dict[str, Any]) -> bool:
    """Whether the provider says neither how many tokens came in nor how many went out."""
    return _count(usage, PROMPT) is None and _count(usage, COMPLETION) is None


def _groups(usage: dict[str, Any]) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    yield usage, PROMPT
    yield usage, COMPLETION
    yield usage, TOTAL
    yield _details(usage, PROMPT_DETAILS), CACHED
    yield _details(usage, COMPLETION_DETAILS), REASONING


def _count(said: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first count of these names that is a number; `_UNTRUE` where that is out of bounds."""
    for name in names:
        value = said.get(name)
        if _is_number(value):
            return value if is_count(value, MOST_TOKENS) else _UNTRUE
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _details(usage: dict[str, Any], groups: tuple[str, ...]) -> dict[str, Any]:
    for group in groups:
        details = usage.get(group)
        if isinstance(details, dict):
            return details
    return {}

"""The names of the totals that accounting keeps of each UTC day."""

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

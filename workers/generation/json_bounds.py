"""How intricate JSON from outside may be: parsing millions of values holds up all that a worker does."""

#: What is shorter, in bytes, is not looked at: it can't hold many values.
SHORT_BYTES = 64 * 1024
#: The most objects and lists: `top_logprobs` of 20 for some 11,000 tokens.
MOST_CONTAINERS = 500_000
#: The most values: those of 2,048 embeddings of 1,536 numbers each, and some more.
MOST_VALUES = 4_000_000
TOO_INTRICATE = "has more values than are read"


def is_too_intricate(raw: bytes) -> bool:
    """Whether JSON has more values than are read; it is not parsed for that.

    Args:
        raw: the text. What stands in its strings counts as well.
    """
    if len(raw) < SHORT_BYTES:
        return False
    return raw.count(b"{") + raw.count(b"[") > MOST_CONTAINERS or raw.count(b",") > MOST_VALUES

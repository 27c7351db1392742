"""The largest numbers that are taken from outside: from automations, providers and other publishers.

Each is far above what is real and far below what 64 bits hold, so that sums of millions of them fit as well.
What is out of bounds is refused, or left out, with a word that says so; it is never cut silently.
"""

from typing import Final, TypeGuard

#: Tokens of one call: more than any provider admits.
MOST_TOKENS: Final = 1_000_000_000
#: Cost of one call, in nano-USD: one thousand dollars. Nine million of them fit into 64 bits.
MOST_NANOUSD: Final = 10**12
#: The longest time that a message, a call or a pause may have taken, in seconds: ten years.
LONGEST_S: Final = 10 * 366 * 24 * 3600
#: The same in milliseconds.
LONGEST_MS: Final = LONGEST_S * 1000
#: How far ahead of MongoDB's clock another's clock may be, in seconds: a day. It is taken for "now".
FURTHEST_AHEAD_S: Final = 24 * 3600
#: A count that others name: calls in flight, deliveries.
MOST_COUNTED: Final = 2**31 - 1
#: The longest name of a model, in characters.
LONGEST_MODEL: Final = 256


def is_count(value: object, most: int) -> TypeGuard[int]:
    """Whether a value from outside is a whole number from 0 to `most`; `True` and `1.0` are none."""
    return type(value) is int and 0 <= value <= most


def is_text(value: object, longest: int) -> TypeGuard[str]:
    """Whether a value from outside is a text of 1 to `longest` characters that can be written as UTF-8."""
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)

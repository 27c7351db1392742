"""Estimates how many tokens a text has, by counting its characters by kind.

Tokenizers cut text where words, digits, signs and space meet, and know few words of scripts that they saw
little of. So tokens are a weighted sum of such places and of characters by script. The weights were fitted to
true counts of texts in some twenty languages and twenty formats; a test holds them to a factor of two.
"""

from collections.abc import Mapping
from typing import Final

#: Characters that are read of a long text, in slices that are spread evenly over it.
MOST_READ: Final = 16 * 1024
SLICES: Final = 16
#: Models that count with the older vocabulary (cl100k_base): GPT-4 before GPT-4o, GPT-3.5, embeddings.
OLDER_MODELS: Final = ("gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-")
OLDER_MODEL: Final = "gpt-4"

#: A letter for each kind of character.
SMALL, CAPITAL, DIGIT, SPACE, LINE, SIGN, OTHER = b"a", b"A", b"0", b" ", b"n", b".", b"x"
#: The scripts: the first and the last byte that a character begins with in UTF-8, and how many tokens it has
#: in today's vocabulary (o200k_base) and in the older one.
SCRIPTS: Final[Mapping[bytes, tuple[int, int, float, float]]] = {
    b"1": (0xC2, 0xC3, 0.72, 2.12),  # Western European letters
    b"l": (0xC4, 0xCD, 1.11, 1.69),  # other Latin letters
    b"G": (0xCE, 0xCF, 0.51, 1.13),  # Greek
    b"c": (0xD0, 0xD3, 0.31, 0.54),  # Cyrillic
    b"h": (0xD4, 0xDF, 0.38, 0.97),  # Hebrew, Arabic and their neighbours
    b"i": (0xE0, 0xE0, 0.36, 1.23),  # scripts of India, Thai
    b"j": (0xE1, 0xE1, 0.33, 1.94),  # Georgian and others, Vietnamese letters
    b"s": (0xE2, 0xE2, 1.07, 0.98),  # symbols, typographic signs
    b"k": (0xE3, 0xE3, 0.70, 0.90),  # kana, East Asian signs
    b"z": (0xE4, 0xE9, 0.81, 1.19),  # Chinese characters
    b"g": (0xEA, 0xED, 0.69, 1.01),  # Hangul
    b"f": (0xEE, 0xEF, 1.11, 1.50),  # full width forms
    b"e": (0xF0, 0xFF, 1.83, 2.83),  # emoji
}
#: Tokens a character of ASCII has.
SMALL_WEIGHT: Final = 0.1
CAPITAL_WEIGHT: Final = 0.15
DIGIT_WEIGHT: Final = 0.5
SIGN_WEIGHT: Final = 0.62
#: Tokens more for a word's beginning, a capital within a word, letters and digits side by side, a number
#: after space, signs after something else, and space that is wider than one.
WORD_WEIGHT: Final = 0.53
HUMP_WEIGHT: Final = 0.6
MIXED_WEIGHT: Final = 0.78
NUMBER_WEIGHT: Final = 0.3
SIGNS_WEIGHT: Final = 0.32
GAP_WEIGHT: Final = 1.6
#: The same for so many letters in a row, which are no word.
LONG_RUN: Final = 16
LONG_RUN_WEIGHT: Final = 3.0
#: The same for so much space in a row.
WIDE_GAP: Final = 64
WIDE_GAP_WEIGHT: Final = 0.6


def text_tokens(text: str, model: str | None = None) -> float:
    """Tokens that a text is expected to have.

    Args:
        text: of any size; of one with more than `MOST_READ` characters samples are read.
        model: that reads or writes it.
    """
    is_older = model is not None and (model == OLDER_MODEL or model.startswith(OLDER_MODELS))
    scripts = _OLDER if is_older else _TODAYS
    if len(text) <= MOST_READ:
        return _counted(text, scripts)
    step, width = len(text) // SLICES, MOST_READ // SLICES
    sample = "".join(text[begin * step : begin * step + width] for begin in range(SLICES))
    return _counted(sample, scripts) * len(text) / len(sample)


def _counted(text: str, scripts: Mapping[bytes, float]) -> float:
    kinds = text.encode("utf-8", "surrogatepass").translate(_KINDS, _CONTINUATIONS)
    count, coarse = kinds.count, kinds.translate(_COARSE)
    letters, capitals = count(SMALL), count(CAPITAL)
    tokens = (
        SMALL_WEIGHT * letters
        + CAPITAL_WEIGHT * capitals
        + WORD_WEIGHT * coarse.count(b" a")
        + SIGN_WEIGHT * count(SIGN)
        + SIGNS_WEIGHT * kinds.translate(_SIGNS).count(b"x.")
        + GAP_WEIGHT * kinds.translate(_SPACES).count(b"x  ")
        + WIDE_GAP_WEIGHT * coarse.count(SPACE * WIDE_GAP)
        + LONG_RUN_WEIGHT * coarse.count(SMALL * LONG_RUN)
    )
    if capitals:
        tokens += HUMP_WEIGHT * count(b"aA")
    if digits := count(DIGIT):
        tokens += DIGIT_WEIGHT * digits + NUMBER_WEIGHT * coarse.count(b" 0")
        tokens += MIXED_WEIGHT * (coarse.count(b"a0") + coarse.count(b"0a"))
    if not text.isascii():
        tokens += sum(weight * count(kind) for kind, weight in scripts.items())
    return tokens


def _kind(byte: int) -> bytes:
    character = chr(byte)
    if byte >= 0x80:
        return next((kind for kind, (first, last, *_) in SCRIPTS.items() if first <= byte <= last), SIGN)
    if character.isalpha():
        return SMALL if character.islower() else CAPITAL
    if character.isdigit():
        return DIGIT
    if character == "\n":
        return LINE
    return SPACE if character.isspace() else SIGN


def _table(kinds: Mapping[bytes, bytes]) -> bytes:
    """A translation of kinds into fewer."""
    return b"".join(kinds.get(bytes([kind]), OTHER) for kind in range(256))


_TODAYS: Final = {kind: today for kind, (_, _, today, _) in SCRIPTS.items()}
_OLDER: Final = {kind: older for kind, (_, _, _, older) in SCRIPTS.items()}
_KINDS: Final = b"".join(map(_kind, range(256)))
_CONTINUATIONS: Final = bytes(range(0x80, 0xC0))
_COARSE: Final = _table({SMALL: SMALL, CAPITAL: SMALL, DIGIT: DIGIT, SPACE: SPACE, LINE: SPACE, SIGN: SIGN})
_SIGNS: Final = _table({SIGN: SIGN})
_SPACES: Final = _table({SPACE: SPACE, LINE: SPACE})

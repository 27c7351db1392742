"""Money for people: US dollars in texts, whole nano-USD everywhere else."""

from decimal import Decimal, InvalidOperation

from infra.errors import PlatformError

NANO = 1_000_000_000
#: The most that is taken at a time, in USD; sums stay far below what 64 bits hold.
MOST_USD = 1_000_000


def nanousd(text: str) -> int:
    """Read an amount of US dollars, such as `0.15`, as nano-USD.

    Raises:
        PlatformError: it is not a number, is negative or too large, or has more than nine decimals.
    """
    try:
        amount = Decimal(text) * NANO
    except InvalidOperation:
        raise PlatformError(f"{text!r} is not an amount of US dollars, such as 0.15") from None
    if not amount.is_finite() or not 0 <= amount <= MOST_USD * NANO:
        raise PlatformError(f"{text!r} is not an amount from 0 to {MOST_USD:,} US dollars")
    if amount != int(amount):
        raise PlatformError(f"{text!r} has more than nine decimals")
    return int(amount)


def usd(nanousd: int) -> str:
    """An amount for people, to the millionth of a dollar."""
    return f"${nanousd / NANO:,.6f}"

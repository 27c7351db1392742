"""Numbers as people read them."""

from datetime import datetime

NANO = 1_000_000_000


def money(nanousd: int) -> str:
    """An amount of nano-USD: cents where there are dollars, and more digits the smaller it is."""
    usd = nanousd / NANO
    if usd == 0:
        return "$0.00"
    if abs(usd) >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if abs(usd) >= 0.001 else f"${usd:.6f}"


def short_money(nanousd: int) -> str:
    """A round amount of nano-USD, such as a limit, without zeros at its end but those of cents."""
    if nanousd >= 10_000 * NANO:
        return f"${compact(nanousd / NANO)}"
    dollars, _, rest = money(nanousd).partition(".")
    rest = rest.rstrip("0")
    return f"{dollars}.{rest:0<2}" if rest else dollars


def count(number: float) -> str:
    """A whole number."""
    return f"{number:,.0f}"


def counted(number: int, noun: str) -> str:
    """So many of something."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def compact(number: float) -> str:
    """A number in at most five characters or so."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            scaled = number / (1e3 if unit == "k" else size)
            return f"{scaled:,.1f}{unit}" if scaled < 100 else f"{scaled:,.0f}{unit}"
    return f"{number:,.0f}"


def rate(per_s: float) -> str:
    """So many a second."""
    return f"{per_s:,.1f}" if per_s < 100 else f"{per_s:,.0f}"


def duration(milliseconds: float | None) -> str:
    """A span of time in its two largest units."""
    if milliseconds is None:
        return "—"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def percent(share: float) -> str:
    """A share of 1."""
    return f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}"


def iso(moment: datetime | None) -> str | None:
    """A time for the browser, which shows it in its own time zone (`assets/console.js`)."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")

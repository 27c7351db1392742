"""Keys to import from a CSV text: read and checked line by line, before anything is added."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from infra.errors import PlatformError
from workers.keys.facts import TIERS, Tier
from workers.keys.key import LARGEST_LIMIT, Limits
from workers.keys.registry import DEFAULT_BASE_URL

#: Columns of a file to import; the first three are needed.
CSV_COLUMNS = (
    "automation",
    "alias",
    "api_key",
    "rpm",
    "tpm",
    "daily_tokens",
    "max_in_flight",
    "base_url",
    "tier",
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to add; `line` is where it stands in the file."""

    line: int
    automation_id: str
    alias: str
    api_key: SecretStr
    limits: Limits
    base_url: str
    tier: int


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no key, and why; what stands in it is not repeated."""

    line: int
    reason: str


def read_keys(text: str) -> list[NewKey | BadLine]:
    """Read a CSV text with a line of column names.

    Raises:
        PlatformError: a column is unknown or missing.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    unknown, missing = set(columns) - set(CSV_COLUMNS), set(CSV_COLUMNS[:3]) - set(columns)
    if unknown or missing:
        listed = ", ".join(sorted(unknown or missing))
        what = f"unknown {listed}" if unknown else f"missing {listed}"
        raise PlatformError(f"columns: {what}; expected {', '.join(CSV_COLUMNS)}")
    try:
        return [_read(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise PlatformError(f"line {reader.line_num}: {error}") from None


def _read(line: int, row: Mapping[str | None, str | None]) -> NewKey | BadLine:
    fields = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    if None in row:
        return BadLine(line, "it has more fields than there are columns")
    if empty := [name for name in CSV_COLUMNS[:3] if not fields.get(name)]:
        return BadLine(line, f"{empty[0]} is empty")
    try:
        return NewKey(
            line,
            fields["automation"],
            fields["alias"],
            SecretStr(fields["api_key"]),
            _limits_of(fields),
            fields.get("base_url") or DEFAULT_BASE_URL,
            _tier_of(fields),
        )
    except PlatformError as error:
        return BadLine(line, str(error))


def _limits_of(fields: Mapping[str, str]) -> Limits:
    try:
        values = [int(fields[name]) if fields.get(name) else None for name in CSV_COLUMNS[3:7]]
    except ValueError:
        raise PlatformError("a limit is not a whole number") from None
    if any(value is not None and not 1 <= value <= LARGEST_LIMIT for value in values):
        raise PlatformError("a limit is less than 1, or too large")
    return Limits(*values)


def _tier_of(fields: Mapping[str, str]) -> int:
    named = fields.get("tier") or Tier.PRIMARY.value
    if named not in set(Tier):
        raise PlatformError(f"the tier is none of {', '.join(Tier)}")
    return TIERS.index(Tier(named))

"""What is stored goes by MongoDB's clock: the sources show where a process's own clock is read."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("infra", "workers") for path in (ROOT / folder).rglob("*.py"))
#: Where a process's own clock is read, and why it may be.
OWN = {
    "infra/dead_letters.py": "a dead letter's time is shown to people; nothing goes by it",
    "infra/deploy/certificates.py": "certificates are made where there is no database",
    "infra/local/simulator/app.py": "it is a provider, which has a clock of its own",
    "workers/generation/provider_failures.py": "for a `retry-after` whose answer has no `date`",
    "workers/generation/tracing.py": "spans of one process, beside others of the same process",
    "workers/keys/server_clock.py": "until MongoDB has answered for the first time",
}
CLOCKS = {
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("date", "today"),
    ("time", "time"),
    ("time", "time_ns"),
}


def readings(path: Path) -> Iterator[int]:
    """The lines in which a file reads the clock of its process, which may be wrong."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if (owner, name) in CLOCKS:
                yield node.lineno


def test_a_process_reads_its_own_clock_only_where_nothing_stored_goes_by_it() -> None:
    found = {str(path.relative_to(ROOT)): list(readings(path)) for path in SOURCES}
    assert {path for path, lines in found.items() if lines} == set(OWN), (
        "take times that are stored from MongoDB: `$$NOW`, `$currentDate` or `Mongo.server_time()`"
    )

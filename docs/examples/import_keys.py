"""Bring automations and their API keys into Keyway from a spreadsheet; repeat it as the spreadsheet grows.

python import_keys.py keys.csv tokens.csv

keys.csv has the columns of `keyway keys import`: automation, alias, api_key, and what is known of rpm, tpm,
daily_tokens, max_in_flight, base_url, tier. Automations that Keyway does not know are added, and their
service tokens are appended to tokens.csv, which only you can read. Keys that are there stay as they are.
"""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def keyway(*arguments: str, stdin: str = "") -> str:
    """Run a command of Keyway's; secrets go through pipes, so that no list of processes shows them."""
    finished = subprocess.run(
        ["keyway", *arguments], input=stdin, stdout=subprocess.PIPE, text=True, check=False
    )
    if finished.returncode:
        sys.exit(finished.returncode)  # the command has said why
    return finished.stdout


def add_automations(named: set[str], tokens: Path) -> None:
    """Add the automations that are not there, and keep each one's service token as soon as it is known."""
    known = {
        automation["automation_id"] for automation in json.loads(keyway("automations", "list", "--json"))
    }
    for name in sorted(named - known):
        added: dict[str, str] = json.loads(keyway("automations", "add", name, "--json"))
        descriptor = os.open(tokens, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerow([name, added["service_token"]])


def add_keys(rows: list[dict[str, str]]) -> int:
    """Import the keys that are not there; returns how many."""
    listed: list[dict[str, Any]] = json.loads(keyway("keys", "list", "--json"))
    known = {(key["automation_id"], key["alias"]) for key in listed}
    fresh = [row for row in rows if (row["automation"], row["alias"]) not in known]
    if fresh:
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(fresh[0]))
        writer.writeheader()
        writer.writerows(fresh)
        keyway("keys", "import", "/dev/stdin", stdin=table.getvalue())
    return len(fresh)


def main(spreadsheet: Path, tokens: Path) -> None:
    """Read the spreadsheet, then add what is missing."""
    with spreadsheet.open(newline="", encoding="utf-8-sig") as opened:
        rows = list(csv.DictReader(opened))
    add_automations({row["automation"] for row in rows}, tokens)
    print(f"{add_keys(rows)} of {len(rows)} keys are new.")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: import_keys.py KEYS.csv TOKENS.csv")
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""What a scenario tells of its run, so that docs/reliability.md can be filled from it."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: From the return of what was away to the first answer, in seconds.
RECOVERY_S = 15.0


@dataclass(frozen=True, slots=True)
class Report:
    """Tells figures as a line of JSON on the terminal, and in the file that `KEYWAY_CHAOS_REPORT` names."""

    scenario: str
    form: str

    def tell(self, **figures: Any) -> None:
        line = json.dumps({"scenario": self.scenario, "form": self.form, **figures})
        sys.stdout.write(f"\n{line}\n")
        if path := os.environ.get("KEYWAY_CHAOS_REPORT"):
            with Path(path).open("a") as file:
                file.write(f"{line}\n")

    def assert_recovered(self, after_s: float) -> None:
        """Fail where it took too long; in the long form alone, since the quick one runs on busy machines."""
        assert self.form == "quick" or after_s < RECOVERY_S

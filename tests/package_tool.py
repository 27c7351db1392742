"""Programs of Python packages that checks run."""

import subprocess
import sys
from pathlib import Path


def run_tool(*command: str, stdin: str = "") -> tuple[int, str]:
    """Run a program that stands beside this Python, such as `yamllint`.

    Returns:
        Its exit status, and what it wrote.
    """
    done = subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout

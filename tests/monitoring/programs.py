"""Prometheus and promtool: the machine's own, or those of Debian's package."""

import shutil
from pathlib import Path

from tests.debian_packages import by_apt, unpacked


def program(name: str) -> Path:
    """Where `prometheus` or `promtool` is; where it can't be had the test is skipped, but not in CI."""
    if (found := shutil.which(name)) is not None:
        return Path(found)
    otherwise = "install Debian's package prometheus, or another"
    return unpacked("prometheus", f"usr/bin/{name}", by_apt("prometheus"), otherwise)

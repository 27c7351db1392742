"""Prometheus and promtool: the machine's own, or Debian's package, unpacked and not installed.

Installing it would start a service of the system.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

#: Where the package is unpacked, for all processes that run tests, now and later.
UNPACKED = Path(tempfile.gettempdir()) / f"keyway-tests-prometheus-{os.getuid()}"
APT_S = 600


def program(name: str) -> Path:
    """Where `prometheus` or `promtool` is; where it can't be had the test is skipped, but not in CI."""
    if (found := shutil.which(name)) is not None:
        return Path(found)
    unpacked = UNPACKED / "usr/bin" / name
    UNPACKED.mkdir(mode=0o700, exist_ok=True)
    with (UNPACKED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one of them unpacks it
        if not unpacked.exists() and (problem := _unpack()) is not None:
            if os.geteuid() == 0 or os.environ.get("CI"):
                raise AssertionError(f"no {name}: {problem}")
            pytest.skip(f"no {name}: {problem}; install Debian's package prometheus, or another")
    return unpacked


def _unpack() -> str | None:
    """Fetch and unpack; why it can't be done, or None."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get here"
    if os.geteuid() == 0:
        # Where an update fails, what is known already may still do.
        _run("apt-get", "-o", "DPkg::Lock::Timeout=120", "update")
    failure = _run("apt-get", "-o", "APT::Sandbox::User=root", "download", "prometheus")
    if failure is not None:
        return failure
    (package,) = UNPACKED.glob("prometheus_*.deb")
    failure = _run("dpkg-deb", "--extract", str(package), str(UNPACKED))
    package.unlink()
    return failure


def _run(*command: str) -> str | None:
    done = subprocess.run(command, cwd=UNPACKED, capture_output=True, text=True, timeout=APT_S, check=False)
    return None if done.returncode == 0 else f"{command[0]}: {done.stderr.strip() or done.returncode}"

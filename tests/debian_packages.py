"""Programs of Debian's packages, unpacked and not installed: installing some would start a service."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from urllib.request import urlopen

import pytest

APT_S = 600
DOWNLOAD_S = 120
#: Puts a package into a folder; why it can't be done, or None.
Fetch: TypeAlias = Callable[[Path], str | None]


def unpacked(package: str, program: str, fetch: Fetch, otherwise: str) -> Path:
    """A program of a package; where it can't be had the test is skipped, but not in CI.

    Args:
        package: its name; it is kept for all processes that run tests, now and later.
        program: its path in the package.
        fetch: gets the package.
        otherwise: what a person may do who has not got it.
    """
    folder = Path(tempfile.gettempdir()) / f"keyway-tests-{package}-{os.getuid()}"
    found = folder / program
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one of them unpacks it
        if not found.exists() and (problem := fetch(folder) or _extract(folder)) is not None:
            if os.geteuid() == 0 or os.environ.get("CI"):
                raise AssertionError(f"no {package}: {problem}")
            pytest.skip(f"no {package}: {problem}; {otherwise}", allow_module_level=True)
    return found


def by_apt(package: str) -> Fetch:
    """Of this machine's own Debian."""

    def fetch(folder: Path) -> str | None:
        if shutil.which("apt-get") is None:
            return "there is no apt-get here"
        if os.geteuid() == 0:
            # Where an update fails, what is known already may still do.
            _run(folder, "apt-get", "-o", "DPkg::Lock::Timeout=120", "update")
        return _run(folder, "apt-get", "-o", "APT::Sandbox::User=root", "download", package)

    return fetch


def by_address(url: str, sha256: str) -> Fetch:
    """Of another Debian than this machine's."""

    def fetch(folder: Path) -> str | None:
        try:
            with urlopen(url, timeout=DOWNLOAD_S) as response:
                content: bytes = response.read()
        except OSError as error:
            return f"{url}: {error}"
        if hashlib.sha256(content).hexdigest() != sha256:
            return f"{url} is not what it was"
        (folder / url.rpartition("/")[2]).write_bytes(content)
        return None

    return fetch


def _extract(folder: Path) -> str | None:
    (package,) = folder.glob("*.deb")
    failure = _run(folder, "dpkg-deb", "--extract", str(package), str(folder))
    package.unlink()
    return failure


def _run(folder: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=APT_S, check=False)
    except FileNotFoundError:
        return f"there is no {command[0]} here"
    return None if done.returncode == 0 else f"{command[0]}: {done.stderr.strip() or done.returncode}"

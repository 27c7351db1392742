"""Docker Compose, which needs no engine to read files: the machine's own, or that of Debian 13."""

import platform
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.debian_packages import by_address, unpacked

PACKAGE = "http://deb.debian.org/debian/pool/main/d/docker-compose/docker-compose_2.26.1-4_amd64.deb"
SHA256 = "47681197cb2b1ab88206b42a1a92fc75f50d9530a6322d03494a473eed0408ea"
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"


@cache
def _command() -> Sequence[str]:
    own = ("docker", "compose")
    if shutil.which("docker"):
        asked = subprocess.run((*own, "version"), capture_output=True, check=False)
        if asked.returncode == 0:
            return own
    if platform.machine() != "x86_64":
        pytest.skip("no Docker Compose: install it")
    return (str(unpacked("docker-compose", PLUGIN, by_address(PACKAGE, SHA256), "install Docker Compose")),)


def docker_compose(*arguments: str, folder: Path) -> tuple[int, str, str]:
    """Run it in a folder; its status, standard output and standard error."""
    done = subprocess.run((*_command(), *arguments), cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr

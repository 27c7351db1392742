"""What `kubectl kustomize` prints: the machine's own kubectl, or that of Debian 13. It needs no cluster."""

import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package of their own

from tests.debian_packages import by_address, unpacked

PACKAGE = "http://deb.debian.org/debian/pool/main/k/kubernetes/kubectl_1.32.3+ds-2_amd64.deb"
SHA256 = "9825aaf4c14913027aae04af8688e580459f781c829bd5de00cc4dc2cc5a867f"

Manifest = dict[str, Any]


@cache
def _kubectl() -> str:
    if (found := shutil.which("kubectl")) is not None:
        return found
    if platform.machine() != "x86_64":
        pytest.skip("no kubectl: install it", allow_module_level=True)
    return str(unpacked("kubectl", "usr/bin/kubectl", by_address(PACKAGE, SHA256), "install kubectl"))


def build(folder: Path) -> list[Manifest]:
    """Every manifest of a kustomization."""
    done = subprocess.run(
        (_kubectl(), "kustomize", folder), capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pod templates of Keyway's own workloads, by their names."""
    own = [manifest for manifest in manifests if manifest["kind"] in {"Deployment", "Job"}]
    return {manifest["metadata"]["name"]: manifest["spec"]["template"] for manifest in own}

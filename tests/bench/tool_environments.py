"""Peers and tools that Keyway does not need itself: each in an environment of its own, at pinned versions.

They are made on first use in `~/.cache/keyway/peers` (`KEYWAY_PEERS` names another folder) and kept. An
environment's name has its packages' digest in it, so that another version is another folder.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from infra.errors import StackError

CACHE = Path(os.environ.get("KEYWAY_PEERS") or Path.home() / ".cache" / "keyway" / "peers")
#: What an installation may take, in seconds.
INSTALL_S = 900.0
#: Where this environment's own programs are; `npm` and `uv` are among them.
BIN = Path(sys.prefix) / "bin"


@dataclass(frozen=True)
class Tool:
    """Packages of one registry that are installed together."""

    name: str
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where they are, or will be."""
        digest = hashlib.sha256("\n".join((sys.version, *self.packages)).encode()).hexdigest()
        return CACHE / f"{self.name}-{digest[:10]}"

    def ensure(self, console: Console) -> Path:
        """Install them where they are not there yet.

        Returns:
            Their folder.

        Raises:
            StackError: the installer failed; its last line is in the text.
        """
        ready = self.folder / ".ready"
        if ready.exists():
            return self.folder
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with console.status(f"installing {', '.join(self.packages)} for the comparison"):
            for command in self.commands():
                _run(command)
        ready.touch()
        console.print(f"installed {', '.join(self.packages)} in {self.folder}", highlight=False)
        return self.folder

    def commands(self) -> Sequence[Sequence[str]]:
        """What installs them, in order."""
        raise NotImplementedError


class PythonTool(Tool):
    """A virtual environment."""

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    def commands(self) -> Sequence[Sequence[str]]:
        """An environment, then its packages."""
        uv = str(BIN / "uv")
        return (
            (uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(self.folder)),
            (uv, "pip", "install", "--quiet", "--python", self.python, *self.packages),
        )


class NodeTool(Tool):
    """A folder of npm's."""

    def commands(self) -> Sequence[Sequence[str]]:
        """One installation; no script of a package is run."""
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
        return ((str(BIN / "npm"), "install", *quiet, "--prefix", str(self.folder), *self.packages),)


CELERY = PythonTool("celery", ("celery==5.7.0", "gevent==26.9.0", "openai==3.54.0"))
LITELLM = PythonTool("litellm", ("litellm[proxy]==1.106.0",))
PORTKEY = NodeTool("portkey", ("@portkey-ai/gateway@1.15.2",))
PLOT = PythonTool("plot", ("matplotlib==3.11.2",))


def _run(command: Sequence[str]) -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=INSTALL_S, check=False
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise StackError(f"{' '.join(command[:3])} … failed: {lines[-1] if lines else done.returncode}")

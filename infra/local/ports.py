"""Which ports the local stack listens on: those of last time, else the usual ones, else any free ones.

A chosen port is free until its service listens, which takes RabbitMQ some seconds. So that nobody else who
chooses here meanwhile is given it, its number is locked in a file that all processes of a user share.
"""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

LOOPBACK = "127.0.0.1"
#: Any port is taken from here, below the range from which the kernel serves outgoing connections: so that
#: none of them holds the port when its service starts again.
ANY = range(15_000, 32_000)
TRIES = 200

_claimed: set[int] = set()


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do; what still lingers of a former connection does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def claim(port: int) -> bool:
    """Whether a port is this process' own from now until it ends, and no other's who chooses here."""
    try:
        fcntl.lockf(_claims_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    _claimed.add(port)
    return True


@cache
def _claims_file() -> int:
    """Opened once: POSIX ends a process' locks with the first of its descriptors that is closed."""
    path = Path(tempfile.gettempdir()) / f"keyway-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def choose_ports(
    usual: Mapping[str, int | None],
    remembered: Mapping[str, int],
    is_free: Callable[[int], bool] = is_free,
    claim: Callable[[int], bool] = claim,
) -> dict[str, int]:
    """Choose a port for each name, no port twice, and claim it for this process.

    Args:
        usual: the port that is customary for each name; None where any will do.
        remembered: the ports of last time, preferred.
        is_free: whether one could listen there.
        claim: takes it for this process; whether it could.

    Returns:
        The ports by name.

    Raises:
        OSError: there is no free port.
    """
    chosen: dict[str, int] = {}
    for name, customary in usual.items():
        others = (port for port in random.sample(ANY, TRIES) if port not in _claimed)
        for port in (remembered.get(name), customary, *others):
            if port is not None and port not in chosen.values() and is_free(port) and claim(port):
                chosen[name] = port
                break
        else:
            raise OSError(f"no free port for {name} among {TRIES} of {ANY.start} to {ANY.stop - 1}")
    return chosen

"""Which ports the local stack listens on: those of last time, else the usual ones, else any free ones."""

import random
import socket
from collections.abc import Callable, Mapping

LOOPBACK = "127.0.0.1"
#: Any port is taken from here, below the range from which the kernel serves outgoing connections: so that
#: none of them holds the port when its service starts again.
ANY = range(15_000, 32_000)
TRIES = 200


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


def choose_ports(
    usual: Mapping[str, int | None],
    remembered: Mapping[str, int],
    is_free: Callable[[int], bool] = is_free,
) -> dict[str, int]:
    """Choose a port for each name, no port twice.

    Args:
        usual: the port that is customary for each name; None where any will do.
        remembered: the ports of last time, preferred.
        is_free: whether one could listen there.

    Returns:
        The ports by name.

    Raises:
        OSError: there is no free port.
    """
    chosen: dict[str, int] = {}
    for name, customary in usual.items():
        wanted = (remembered.get(name), customary, *random.sample(ANY, TRIES))
        for port in wanted:
            if port is not None and port not in chosen.values() and is_free(port):
                chosen[name] = port
                break
        else:
            raise OSError(f"no free port for {name} among {TRIES} of {ANY.start} to {ANY.stop - 1}")
    return chosen

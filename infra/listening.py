"""A socket that a service listens on; where it can't, one line says which setting is wrong."""

import socket

from infra.errors import PlatformError


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Listen for TCP connections.

    Args:
        host: a name or an address of this machine.
        port: 0: any that is free.
        setting: what the port is called by whoever may change it.

    Raises:
        PlatformError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise PlatformError(f"{setting}: can't listen on {host}:{port}: {error.strerror}") from None

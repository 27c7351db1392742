"""A container's health: RabbitMQ sees the service in this container, and it consumes.

    python -m infra.deploy.healthcheck generation|accounting|leasing [--alive]

That a process is there, the container says by itself. What it does not say is that a service is connected
and takes nothing, the way in which a consumer fails unseen: so this asks the broker, not the process. With
`--alive` only that counts: a broker that is away is no reason to end who waits for it.
"""

import asyncio
import socket
import sys
from collections.abc import Sequence
from urllib.parse import quote

from infra.errors import BrokerError, PlatformError
from infra.management import Management, management
from infra.settings import Settings

#: Every connection of the vhost, with its names only: there may be thousands.
CONNECTIONS = "vhosts/{vhost}/connections?columns=name,user_provided_name"


async def consumes(admin: Management, service: str, host: str) -> bool:
    """Whether a service's process on a host has a consumer.

    Args:
        admin: the management API.
        service: as its connections are named, such as `generation`.
        host: the host's name, with which a worker's id begins.

    Raises:
        BrokerError: the management API refuses, or can't be reached.
    """
    own = f"keyway {service} {host}-"
    for connection in await admin.call("GET", CONNECTIONS):
        if connection.get("user_provided_name", "").startswith(own):
            path = f"connections/{quote(connection['name'], safe='')}/channels"
            if any(channel.get("consumer_count", 0) for channel in await admin.call("GET", path)):
                return True
    return False


async def check(service: str, *, broker_may_be_away: bool = False) -> str | None:
    """What is wrong with this container's service; None when nothing is."""
    try:
        async with management(Settings.load()) as admin:
            if await consumes(admin, service, socket.gethostname()):
                return None
    except BrokerError as error:
        return None if broker_may_be_away else str(error)
    except PlatformError as error:
        return str(error)
    return f"RabbitMQ sees no consumer of {service} on {socket.gethostname()}"


def main(arguments: Sequence[str]) -> None:
    """Exit with 0 when the named service is healthy, else with 1 and the reason."""
    services = [argument for argument in arguments if argument != "--alive"]
    problem = asyncio.run(check(*services, broker_may_be_away="--alive" in arguments))
    if problem:
        sys.exit(problem)


if __name__ == "__main__":
    main(sys.argv[1:])

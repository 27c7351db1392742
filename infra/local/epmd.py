"""Erlang's port mapper, by which RabbitMQ's nodes find each other: our own, so that none stays behind."""

import asyncio
import shutil
from pathlib import Path

from infra.errors import StackError
from infra.local.ports import LOOPBACK
from infra.local.process import Child
from infra.local.readiness import wait_until_ready

READY_S = 60.0
GRACE_S = 2.0


class Epmd:
    """One port mapper; nodes that form a cluster share it.

    Args:
        port: where it listens, on the loopback interface only.
        logs: folder of its log.
    """

    def __init__(self, port: int, logs: Path) -> None:
        self.port = port
        self._child = Child(
            "epmd", (_find(), "-address", LOOPBACK, "-port", str(port)), {}, logs / "epmd.log"
        )

    async def start(self) -> None:
        """Start it and wait until it listens; nothing happens while it runs.

        Raises:
            StackError: it ended at once.
        """
        await self._child.start()
        await wait_until_ready(self._child, self._listens, READY_S)

    async def stop(self) -> None:
        """End it."""
        await self._child.stop(GRACE_S)

    def kill(self) -> None:
        """SIGKILL."""
        self._child.kill()

    async def _listens(self, _: Child) -> bool:
        try:
            _reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
            writer.close()
            await writer.wait_closed()
        except OSError:
            return False
        return True


def _find() -> str:
    erlang = Path("/usr/lib/erlang")
    places = (erlang / "bin/epmd", *sorted(erlang.glob("erts-*/bin/epmd")))
    found = next((str(place) for place in places if place.exists()), None) or shutil.which("epmd")
    if not found:
        raise StackError("epmd is missing, though Erlang brings it; as root: apt-get install erlang-base")
    return found

"""What services may not do because of a neighbour: end, connect anew, complain of anything else."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped, unused-ignore]

from contracts import names
from infra.consumer_trials import TRIALS
from infra.settings import Settings
from tests.chaos.noisy_neighbour.ordinary import ID_PREFIX
from tests.harness import Service, World, eventually
from tests.scraped import scrape

#: Levels of a log event that nobody but the neighbour may be the reason of.
FAULTS = ("error", "critical", "exception")
#: What is told, at the level of information, of a request that a worker got a second time.
AGAIN = ("request_repeated", "claim_taken_over", "request_handed_back", "delivery_gone", "reply_delayed")
#: What a worker says that it is busy with.
IN_HAND = ("keyway_requests_in_hand", "keyway_calls_in_flight")
#: The name of a worker's connection for addresses that are not known yet (decision 0012).
APART = "keyway replies "
#: The same in the line of a library that tells of its loss.
APART_IN_URL = "name=keyway+replies+"


def amqp_sockets(service: Service, settings: Settings) -> dict[int, Path]:
    """The descriptors of a process's connections to RabbitMQ, by their local ports."""
    port, pid = urlsplit(settings.amqp_url.get_secret_value()).port, service.process.pid
    return {
        one.laddr.port: Path(f"/proc/{pid}/fd/{one.fd}")
        for one in psutil.Process(pid).net_connections("tcp")
        if one.raddr and one.raddr.port == port and one.status == "ESTABLISHED"
    }


def socket_at(descriptor: Path) -> str | None:
    """Which socket this is, as the kernel names it; None if it is closed."""
    try:
        return str(descriptor.readlink())
    except OSError:
        return None


@dataclass
class ServicesWatch:
    """Looks at a world's services from `begin` on."""

    world: World
    ordinary: str
    _may_cost_apart: bool = False
    #: By process, the descriptors of its connections and what they are: the kernel's list is long, and slow.
    _sockets: dict[int, dict[Path, str | None]] = field(default_factory=dict)
    _read: dict[int, int] = field(default_factory=dict)

    async def begin(self, *, may_cost_apart: bool) -> None:
        """Note where things stand.

        Args:
            may_cost_apart: whether a worker may lose its connection for unknown addresses.
        """
        self._may_cost_apart = may_cost_apart
        for service in self.world.services:
            pid = service.process.pid
            if pid not in self._sockets or self._lost(service):
                kept = await self._kept(service)
                self._sockets[pid] = {descriptor: socket_at(descriptor) for descriptor in kept}
            self._read[pid] = service.log.stat().st_size

    async def assert_calm(self) -> None:
        """Nothing of what may not happen has happened since."""
        for service in self.world.services:
            assert service.process.returncode is None, f"{service.log.name} ended: {self._tail(service)}"
            assert not self._lost(service), f"{service.log.name} lost a connection: {self._tail(service)}"
            faults = [line for line in self._new_lines(service) if self._is_fault(line)]
            assert not faults, f"{service.log.name}: {faults[:3]}"

    async def nothing_in_hand(self) -> None:
        """Wait until no worker is busy with any request."""
        workers = [service for service in self.world.services if service.log.name.startswith("worker")]

        async def idle() -> bool:
            scraped = await scrape(workers, only=IN_HAND)
            return not any(scraped.sum(name) for name in IN_HAND)

        await eventually(idle, "nothing in the workers' hands")

    def _lost(self, service: Service) -> bool:
        """Whether a connection of its is not there any more."""
        kept = self._sockets[service.process.pid]
        return any(socket_at(descriptor) != socket for descriptor, socket in kept.items())

    def _is_fault(self, line: str) -> bool:
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            return bool(line.strip())
        if event["event"] == "queues_not_consumed":
            # RabbitMQ's count of redeliveries would not do: it grows by a lane's larger prefetch, too.
            return names.lane_queue(self.ordinary) in event["queues"]
        whose = event.get("automation_id")
        if whose not in {None, self.ordinary}:
            return False
        if self._may_cost_apart and event["event"] == "reply_delayed":
            # A new client's first reply waits for the connection for unknown addresses.
            return False
        if event["level"] in FAULTS:
            return not (self._may_cost_apart and APART_IN_URL in event["event"])
        # What the neighbour publishes in the ordinary one's name is refused with a warning.
        about_its_own = event.get("request_id", ID_PREFIX).startswith(ID_PREFIX)
        return (
            whose is not None and about_its_own and (event["level"] == "warning" or event["event"] in AGAIN)
        )

    def _new_lines(self, service: Service) -> list[str]:
        with service.log.open("rb") as log:
            log.seek(self._read[service.process.pid])
            return log.read().decode(errors="replace").splitlines()

    def _tail(self, service: Service) -> str:
        return "\n".join(self._new_lines(service))[-2000:]

    async def _kept(self, service: Service) -> list[Path]:
        """The descriptors of its connections that stay, as soon as RabbitMQ lists all that it has."""
        by_port: dict[int, str] = {}
        found: dict[int, Path] = {}

        async def listed() -> bool:
            for one in await self.world.admin.call("GET", "vhosts/{vhost}/connections"):
                by_port[one["peer_port"]] = one.get("client_properties", {}).get("connection_name", "")
            found.clear()
            found.update(amqp_sockets(service, self.world.settings))
            return found.keys() <= by_port.keys()

        await eventually(listed, "all connections in the management API")
        return [found[port] for port, name in by_port.items() if port in found and not _is_apart(name)]


def _is_apart(name: str) -> bool:
    """Whether a connection of that name is there for a while only."""
    return name.startswith(APART) or name.endswith(TRIALS)

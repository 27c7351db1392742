"""What services may not do because of a neighbour: end, connect anew, complain of anything else."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped, unused-ignore]

from infra.settings import Settings
from tests.chaos.noisy_neighbour.ordinary import ID_PREFIX
from tests.harness import Service, World, eventually
from tests.scraped import scrape

#: Levels of a log event that nobody but the neighbour may be the reason of.
FAULTS = ("error", "critical", "exception")
#: What is told, at the level of information, of a request that a worker got a second time.
AGAIN = ("request_repeated", "claim_taken_over", "request_handed_back", "delivery_gone", "reply_delayed")
#: The name of a worker's connection for addresses that are not known yet (decision 0012).
APART = "keyway replies "
#: The same in the line of a library that tells of its loss.
APART_IN_URL = "name=keyway+replies+"


def amqp_ports(service: Service, settings: Settings) -> set[int]:
    """Local ports of a process's connections to RabbitMQ."""
    port = urlsplit(settings.amqp_url.get_secret_value()).port
    found = psutil.Process(service.process.pid).net_connections("tcp")
    return {
        one.laddr.port
        for one in found
        if one.raddr and one.raddr.port == port and one.status == "ESTABLISHED"
    }


@dataclass
class ServicesWatch:
    """Looks at a world's services from `begin` on."""

    world: World
    ordinary: str
    _may_cost_apart: bool = False
    _ports: dict[int, set[int]] = field(default_factory=dict)
    _read: dict[int, int] = field(default_factory=dict)

    async def begin(self, *, may_cost_apart: bool) -> None:
        """Note where things stand.

        Args:
            may_cost_apart: whether a worker may lose its connection for unknown addresses.
        """
        self._may_cost_apart = may_cost_apart
        for service in self.world.services:
            now = amqp_ports(service, self.world.settings)
            if not self._ports.get(service.process.pid, {0}) <= now:
                self._ports[service.process.pid] = now - await self._apart(now)
            self._read[service.process.pid] = service.log.stat().st_size

    async def assert_calm(self) -> None:
        """Nothing of what may not happen has happened since."""
        for service in self.world.services:
            assert service.process.returncode is None, f"{service.log.name} ended: {self._tail(service)}"
            lost = self._ports[service.process.pid] - amqp_ports(service, self.world.settings)
            assert not lost, f"{service.log.name} lost a connection: {self._tail(service)}"
            faults = [line for line in self._new_lines(service) if self._is_fault(line)]
            assert not faults, f"{service.log.name}: {faults[:3]}"

    async def nothing_in_hand(self) -> None:
        """Wait until no worker is busy with any request."""
        workers = [service for service in self.world.services if service.log.name.startswith("worker")]

        async def idle() -> bool:
            scraped = await scrape(workers)
            return scraped.sum("keyway_requests_in_hand") == scraped.sum("keyway_calls_in_flight") == 0

        await eventually(idle, "nothing in the workers' hands", within_s=30)

    async def redelivered(self) -> int:
        """How many of the ordinary automation's requests RabbitMQ says that it delivered again."""
        lane = await self.world.admin.call("GET", f"queues/{{vhost}}/requests.{self.ordinary}")
        return int(lane.get("message_stats", {}).get("redeliver", 0))

    def _is_fault(self, line: str) -> bool:
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            return bool(line.strip())
        whose = event.get("automation_id")
        if whose not in {None, self.ordinary}:
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

    async def _apart(self, ports: set[int]) -> set[int]:
        """Which of these local ports are of connections apart, as soon as RabbitMQ lists all of them."""
        names: dict[int, str] = {}

        async def listed() -> bool:
            for one in await self.world.admin.call("GET", "vhosts/{vhost}/connections"):
                names[one["peer_port"]] = one.get("client_properties", {}).get("connection_name", "")
            return ports <= names.keys()

        await eventually(listed, "all connections in the management API")
        return {port for port in ports if names[port].startswith(APART)}

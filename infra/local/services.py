"""Keyway's own services, each a command line, as children of the local stack."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.local.ports import LOOPBACK
from infra.local.process import Child
from infra.local.readiness import Check, answers, logs_event, wait_until_ready

READY_S = 60.0
#: More than a worker gives to what it has in flight (KEYWAY_GRACE_S).
GRACE_S = 30.0
SIMULATOR_GRACE_S = 5.0

KEYWAY = (sys.executable, "-m", "workers.cli.main")
#: The first operator's password is for whoever starts the stack, not for a log.
INIT = (*KEYWAY, "init", "--no-operator")
CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """How one service is started, and how one sees that it serves."""

    #: Under which name its process ids are listed.
    kind: str
    command: tuple[str, ...]
    ready: Check
    #: How many processes of it run.
    count: int = 1
    #: Seconds that it has to stop.
    grace_s: float = GRACE_S

    @property
    def names(self) -> list[str]:
        """What its processes are called."""
        return (
            [self.kind] if self.count == 1 else [f"{self.kind}-{number + 1}" for number in range(self.count)]
        )


def keyway_services(workers: int) -> tuple[ServiceSpec, ...]:
    """The services of production: so many generation workers, accounting, leasing, and the console."""
    return (
        ServiceSpec("generation", (*KEYWAY, "worker"), logs_event("worker_ready"), count=workers),
        ServiceSpec("accounting", (*KEYWAY, "accounting"), logs_event("accounting_ready")),
        ServiceSpec("leasing", (*KEYWAY, "leasing"), logs_event("leasing_ready")),
        ServiceSpec(CONSOLE, (*KEYWAY, "console"), logs_event("console_ready")),
    )


def simulator(port: int) -> ServiceSpec:
    """The provider's stand-in."""
    command = (sys.executable, "-m", "infra.local.simulator", "--port", str(port))
    ready = answers(f"http://{LOOPBACK}:{port}/healthz")
    return ServiceSpec("simulator", command, ready, grace_s=SIMULATOR_GRACE_S)


class Service:
    """One process of a service."""

    def __init__(self, spec: ServiceSpec, name: str, environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self.kind = spec.kind
        self._spec = spec
        self._child = Child(self.name, spec.command, environment, logs / f"{self.name}.log")

    @property
    def pid(self) -> int | None:
        """Id of the process; None while it is down."""
        return self._child.pid

    async def start(self) -> None:
        """Start it."""
        await self._child.start()

    async def wait_ready(self) -> None:
        """Wait until it serves.

        Raises:
            StackError: it ended, or `READY_S` are over.
        """
        await wait_until_ready(self._child, self._spec.ready, READY_S)

    async def wait(self) -> int:
        """Wait for its end and return the exit status."""
        return await self._child.wait()

    async def stop(self) -> None:
        """Stop it; it has the time that its specification gives it."""
        await self._child.stop(self._spec.grace_s)

    def kill(self) -> None:
        """SIGKILL."""
        self._child.kill()

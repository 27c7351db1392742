"""The whole of Keyway on one machine, as child processes: RabbitMQ, mongod, a provider, the services."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

from infra.errors import StackError
from infra.local import leftovers
from infra.local.bytecode import with_bytecode
from infra.local.home import Home
from infra.local.mongod import Mongod
from infra.local.packages import ensure_installed
from infra.local.ports import LOOPBACK, choose_ports
from infra.local.process import Child
from infra.local.rabbitmq import RabbitMQ, RabbitPorts
from infra.local.services import CONSOLE, INIT, Service, ServiceSpec, keyway_services, simulator
from infra.local.state import SUPERVISOR, StackState, environment_of, write_state
from infra.local.supervision import Part, Report, keep_running

__all__ = ["Layout", "Stack", "StackInfo", "backing_services", "outside_services"]

INIT_S = 60.0
LEFTOVERS_GRACE_S = 10.0

RABBITMQ_PORTS: dict[str, int | None] = {
    "amqp": 5672,
    "management": 15672,
    "prometheus": 15692,
    "distribution": None,
    "epmd": None,
}
MONGOD_PORTS: dict[str, int | None] = {"mongod": 27017}
SIMULATOR_PORTS: dict[str, int | None] = {"simulator": 8089}
CONSOLE_PORTS: dict[str, int | None] = {CONSOLE: 8080}
#: The first of the ports for metrics; the others follow.
METRICS_PORT = 9464
#: Addresses that are all of a machine's: by loopback they are reached too.
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # nothing listens there by this

#: What a service needs to know of the stack.
SETTINGS = ("KEYWAY_AMQP_URL", "KEYWAY_AMQP_ADMIN_URL", "KEYWAY_MONGO_URL", "KEYWAY_MASTER_KEYS")


@dataclass(frozen=True, slots=True)
class StackInfo:
    """Where the parts of a running stack are."""

    #: `KEYWAY_…`, as services and commands read it; it holds secrets.
    environment: dict[str, str] = field(repr=False)
    #: The provider's stand-in, whose API lies below `/v1`; None when there is none.
    simulator_url: str | None
    #: The console; None when there is none.
    console_url: str | None = None
    #: Where each process of the services serves its metrics, by its name.
    metrics_urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def amqp_url(self) -> SecretStr:
        """AMQP address with an administrator's password and the vhost."""
        return SecretStr(self.environment["KEYWAY_AMQP_URL"])

    @property
    def amqp_admin_url(self) -> SecretStr:
        """Address of the management API, with an administrator's password."""
        return SecretStr(self.environment["KEYWAY_AMQP_ADMIN_URL"])

    @property
    def mongo_url(self) -> SecretStr:
        """Connection string of MongoDB."""
        return SecretStr(self.environment["KEYWAY_MONGO_URL"])

    @classmethod
    def of(cls, home: Home, state: StackState) -> "StackInfo":
        """The stack that `state` describes, for a process that did not start it."""
        environment = {**_from_outside(), **environment_of(home, state)}
        return cls(environment, state.simulator_url, state.console_url, state.metrics_urls)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which parts a stack has besides RabbitMQ and MongoDB."""

    #: The command that runs to its end before the services start; empty: none.
    init: Sequence[str] = ()
    services: Sequence[ServiceSpec] = ()
    simulator: bool = False
    #: Whether the customary ports are taken where they are free.
    usual_ports: bool = False

    @classmethod
    def whole(cls, workers: int, *, simulator: bool) -> "Layout":
        """What `keyway up` starts."""
        return cls(INIT, keyway_services(workers), simulator, usual_ports=True)


def outside_services(environment: Mapping[str, str]) -> tuple[bool, bool]:
    """Whether the environment names a RabbitMQ, and a MongoDB, to be used instead of our own.

    Raises:
        StackError: only one of RabbitMQ's two addresses is set.
    """
    amqp, admin = (bool(environment.get(f"KEYWAY_{name}")) for name in ("AMQP_URL", "AMQP_ADMIN_URL"))
    if amqp != admin:
        there, missing = ("AMQP_URL", "AMQP_ADMIN_URL") if amqp else ("AMQP_ADMIN_URL", "AMQP_URL")
        raise StackError(f"KEYWAY_{there} is set but KEYWAY_{missing} is not; set both, or neither")
    return amqp, bool(environment.get("KEYWAY_MONGO_URL"))


class Stack:
    """One stack in one data directory, whose lock the caller holds.

    Args:
        home: the data directory.
        layout: which parts there are.
        report: told of each part that is ready, ends or comes back.
    """

    def __init__(self, home: Home, layout: Layout, report: Report) -> None:
        self._home = home
        self._layout = layout
        self._report = report
        self._backing: list[Part] = []
        self._services: list[Part] = []
        self._init: Child | None = None
        #: What each process of the services listens on, by its name, as settings.
        self._listening: dict[str, dict[str, str]] = {}
        self._state = StackState(supervisor_started=leftovers.started_at(os.getpid()) or 0)

    async def start(self) -> StackInfo:
        """Start everything and wait until it is ready; call `stop` whether this succeeds or not.

        Raises:
            StackError: a part can't be started.
        """
        began = time.monotonic()
        self._publish()
        await leftovers.end(leftovers.marked(self._home.path), LEFTOVERS_GRACE_S)
        try:
            info = self._plan()
            await self._bring_up(self._backing)
            environment = _service_environment(self._home, info)
            if self._layout.init:
                await self._run_init(environment)
            for spec in self._layout.services:
                self._services += self._processes(spec, environment)
            await self._bring_up(self._services)
        except OSError as error:
            raise StackError(f"the stack can't start: {error}") from None
        self._state = self._state.model_copy(update={"ready": True})
        self._publish()
        self._report(f"everything is ready after {time.monotonic() - began:.1f} s")
        return info

    async def supervise(self) -> None:
        """Start again what dies, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in (*self._backing, *self._services):
                group.create_task(keep_running(part, self._report, self._publish))

    async def stop(self) -> None:
        """Stop in order, the services first, so that what they have in flight can still be finished."""
        if self._init:
            await self._init.stop(grace_s=0)
        await asyncio.gather(*(part.stop() for part in self._services))
        await asyncio.gather(*(part.stop() for part in self._backing))
        await leftovers.end(leftovers.marked(self._home.path), grace_s=0)
        self._home.state_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL to every part."""
        if self._init:
            self._init.kill()
        for part in (*self._services, *self._backing):
            part.kill()

    def pids(self) -> dict[str, list[int]]:
        """Ids of the processes that run, by kind."""
        found: dict[str, list[int]] = {SUPERVISOR: [os.getpid()]}
        for part in (*self._backing, *self._services):
            found.setdefault(part.kind, []).extend([part.pid] if part.pid else [])
        return found

    def _plan(self) -> StackInfo:
        """Make the parts of the backing, and know all addresses."""
        ports = self._choose_ports()
        outside = _from_outside()
        found: dict[str, str | bool] = {"own_master_key": "KEYWAY_MASTER_KEYS" not in outside}
        for name in ("amqp_url", "amqp_admin_url", "mongo_url"):
            found[name] = outside.get(f"KEYWAY_{name.upper()}", "")
        if "amqp" in ports:
            rabbitmq_ports = RabbitPorts(**{name: ports[name] for name in RABBITMQ_PORTS})
            rabbitmq = RabbitMQ(self._home.rabbitmq, rabbitmq_ports, logs=self._home.logs)
            self._backing.append(rabbitmq)
            found["amqp_url"] = rabbitmq.amqp_url.get_secret_value()
            found["amqp_admin_url"] = rabbitmq.amqp_admin_url.get_secret_value()
        if "mongod" in ports:
            mongod = Mongod(self._home.mongod, ports["mongod"], logs=self._home.logs)
            self._backing.append(mongod)
            found["mongo_url"] = mongod.url.get_secret_value()
        if "simulator" in ports:
            environment = with_bytecode(os.environ, self._home)
            self._backing += self._processes(simulator(ports["simulator"]), environment)
            found["simulator_url"] = f"http://{LOOPBACK}:{ports['simulator']}"
        self._place_services(ports)
        if CONSOLE in ports:
            found["console_url"] = _address("CONSOLE", ports[CONSOLE])
        urls = {name: f"{_address('METRICS', ports[_metrics_of(name)])}/metrics" for name in self._names()}
        self._state = self._state.model_copy(update={**found, "metrics_urls": urls})
        return StackInfo.of(self._home, self._state)

    def _choose_ports(self) -> dict[str, int]:
        """Ports of the parts that are started here, kept for the next start."""
        has_rabbitmq, has_mongodb = outside_services(os.environ)
        usual = {
            **({} if has_rabbitmq else RABBITMQ_PORTS),
            **({} if has_mongodb else MONGOD_PORTS),
            **(SIMULATOR_PORTS if self._layout.simulator else {}),
            **(CONSOLE_PORTS if CONSOLE in self._names() else {}),
            **{_metrics_of(name): METRICS_PORT + number for number, name in enumerate(self._names())},
        }
        if not self._layout.usual_ports:
            usual = dict.fromkeys(usual)
        ports = choose_ports(usual, self._home.remembered_ports())
        self._home.remember_ports(ports)
        return ports

    def _names(self) -> list[str]:
        """What the processes of the services are called."""
        return [name for spec in self._layout.services for name in spec.names]

    def _place_services(self, ports: Mapping[str, int]) -> None:
        """Have each process of the services listen on its ports."""
        for name in self._names():
            self._listening[name] = {"KEYWAY_METRICS_PORT": str(ports[_metrics_of(name)])}
        if CONSOLE in ports:
            self._listening[CONSOLE]["KEYWAY_CONSOLE_PORT"] = str(ports[CONSOLE])

    def _processes(self, spec: ServiceSpec, environment: Mapping[str, str]) -> list[Service]:
        return [
            Service(spec, name, {**environment, **self._listening.get(name, {})}, self._home.logs)
            for name in spec.names
        ]

    async def _bring_up(self, parts: Iterable[Part]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(self._bring_up_one(part))
        except* StackError as failures:
            first = failures.exceptions[0]
        else:
            return
        raise first

    async def _bring_up_one(self, part: Part) -> None:
        began = time.monotonic()
        try:
            await part.start()
        except OSError as error:
            raise StackError(f"{part.name} can't start: {error}") from None
        self._publish()
        await part.wait_ready()
        self._report(f"{part.name} is ready after {time.monotonic() - began:.1f} s")

    async def _run_init(self, environment: Mapping[str, str]) -> None:
        self._init = Child("init", self._layout.init, environment, self._home.logs / "init.log")
        await self._init.start()
        try:
            async with asyncio.timeout(INIT_S):
                status = await self._init.wait()
        except TimeoutError:
            raise StackError(f"init has no end after {INIT_S:g} s: {self._init.last_line()}") from None
        if status:
            raise StackError(f"init failed: {self._init.last_line()} (see {self._init.log})")

    def _publish(self) -> None:
        self._state = self._state.model_copy(update={"pids": self.pids()})
        write_state(self._home, self._state)


def _metrics_of(name: str) -> str:
    """Under which name the port for a process' metrics is remembered."""
    return f"{name}.metrics"


def _address(what: str, port: int) -> str:
    """Where something is reached that listens at `KEYWAY_<what>_HOST`."""
    host = os.environ.get(f"KEYWAY_{what}_HOST") or LOOPBACK
    if host in EVERYWHERE:
        host = LOOPBACK
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _from_outside() -> dict[str, str]:
    """What the environment says of the stack, where it says something."""
    return {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}


def _service_environment(home: Home, info: StackInfo) -> dict[str, str]:
    """What a service reads; its log has to be JSON and to hold the event that says that it is ready."""
    level = "debug" if os.environ.get("KEYWAY_LOG_LEVEL") == "debug" else "info"
    environment = with_bytecode(os.environ, home)
    environment |= {**info.environment, "KEYWAY_LOG_FORMAT": "json", "KEYWAY_LOG_LEVEL": level}
    # Two workers never have the same.
    environment.pop("KEYWAY_WORKER_ID", None)
    return environment


@contextlib.asynccontextmanager
async def backing_services(data_dir: Path) -> AsyncIterator[StackInfo]:
    """RabbitMQ and MongoDB alone, for tests: on free ports, started again when they die.

    Addresses that the environment names are used instead, and then nothing is started for them.

    Args:
        data_dir: everything that they keep; they find it again at the next start.

    Yields:
        Where they are.

    Raises:
        StackError: a part can't be started.
    """
    has_rabbitmq, has_mongodb = outside_services(os.environ)
    ensure_installed(Console(stderr=True), rabbitmq=not has_rabbitmq, mongod=not has_mongodb)
    home = Home(data_dir)
    with home.lock():
        stack = Stack(home, Layout(), lambda _: None)
        try:
            info = await stack.start()
            supervision = asyncio.create_task(stack.supervise())
            try:
                yield info
            finally:
                supervision.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await supervision
        finally:
            await stack.stop()

"""A private RabbitMQ node as an ordinary child process: its own data, ports, user and port mapper."""

import asyncio
import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from infra.errors import StackError
from infra.local.epmd import Epmd
from infra.local.ports import LOOPBACK
from infra.local.private_files import read_or_create, write_private
from infra.local.process import Child
from infra.local.readiness import answers, wait_until_ready

#: No automation can have this name, since an id holds no underscore.
ADMINISTRATOR = "keyway_admin"
VHOST = "keyway"
READY_S = 180.0
#: RabbitMQ 3.10 needs 6 s to stop, 5 of which it waits for itself; its data are on disk in the first instant.
GRACE_S = 10.0
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
CONNECT_S = 5.0

# Debian's /usr/sbin/rabbitmq-server runs it as another user, in the system's own folders.
_DEBIAN_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


@dataclass(frozen=True, slots=True)
class RabbitPorts:
    """Where one node listens, on the loopback interface only."""

    amqp: int
    management: int
    prometheus: int
    distribution: int
    epmd: int


def find_rabbitmq_server() -> Path | None:
    """The script that starts a node; None when RabbitMQ is not installed."""
    if _DEBIAN_SCRIPT.exists():
        return _DEBIAN_SCRIPT
    found = shutil.which("rabbitmq-server")
    return Path(found) if found else None


class RabbitMQ:
    """One node with the plugins management and prometheus; a second start finds the data of the first.

    Several run side by side in different directories. To let them form a cluster, give them one `epmd`, one
    `cookie` and different node names; who makes the `epmd` starts and stops it.

    Args:
        directory: everything that the node keeps; its passwords are in it, so only its owner may enter.
        ports: where it listens.
        logs: folder of its log; by default `logs` in the directory.
        node_name: `name@localhost`; by default one made from the directory's path, and kept.
        cookie: what nodes of one cluster share; by default a new secret.
        epmd: the port mapper of a cluster; by default the node has its own.
    """

    name = "rabbitmq"
    kind = "rabbitmq"

    def __init__(
        self,
        directory: Path,
        ports: RabbitPorts,
        *,
        logs: Path | None = None,
        node_name: str | None = None,
        cookie: str | None = None,
        epmd: Epmd | None = None,
    ) -> None:
        self.directory = directory.resolve()
        self.ports = ports
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.node_name = node_name or read_or_create(self.directory / "node_name", self._unique_name)
        self._password = read_or_create(self.directory / "password", lambda: secrets.token_urlsafe(24))
        self._cookie = cookie
        logs = logs or self.directory / "logs"
        self._own_epmd = Epmd(ports.epmd, logs) if epmd is None else None
        self._epmd_port = epmd.port if epmd else ports.epmd
        script = find_rabbitmq_server()
        if not script:
            raise StackError("RabbitMQ is not installed; as root: apt-get install rabbitmq-server")
        self._child = Child(self.name, (str(script),), self._environment(), logs / "rabbitmq.log")

    @property
    def amqp_url(self) -> SecretStr:
        """AMQP address with the administrator's password and the vhost."""
        return SecretStr(f"amqp://{ADMINISTRATOR}:{self._password}@{LOOPBACK}:{self.ports.amqp}/{VHOST}")

    @property
    def amqp_admin_url(self) -> SecretStr:
        """Address of the management API, with the administrator's password."""
        return SecretStr(f"http://{ADMINISTRATOR}:{self._password}@{LOOPBACK}:{self.ports.management}")

    @property
    def pid(self) -> int | None:
        """Id of the Erlang machine; None while the node is down."""
        return self._child.pid

    async def start(self) -> None:
        """Write its configuration and start it.

        Raises:
            StackError: its port mapper can't be started.
            OSError: its files can't be written.
        """
        self._configure()
        if self._own_epmd:
            await self._own_epmd.start()
        await self._child.start()

    async def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it takes AMQP connections, and the management API says that its vhosts are up.

        Raises:
            StackError: it ended, or the time is over.
        """
        url = f"http://{LOOPBACK}:{self.ports.management}/api/health/checks/virtual-hosts"
        await wait_until_ready(self._child, answers(url, ADMINISTRATOR, self._password), timeout_s)
        await wait_until_ready(self._child, self._takes_connections, timeout_s)

    async def wait(self) -> int:
        """Wait for its end and return the exit status."""
        return await self._child.wait()

    async def stop(self) -> None:
        """Stop it in order, within `GRACE_S`; nothing of it remains."""
        await self._child.stop(GRACE_S)
        if self._own_epmd:
            await self._own_epmd.stop()

    def kill(self) -> None:
        """SIGKILL to the node and its port mapper; `stop` afterwards collects what is left."""
        self._child.kill()
        if self._own_epmd:
            self._own_epmd.kill()

    def _unique_name(self) -> str:
        digest = hashlib.sha256(str(self.directory).encode()).hexdigest()
        return f"keyway-{digest[:8]}@localhost"

    def _configure(self) -> None:
        cookie = self.directory / ".erlang.cookie"
        if self._cookie:
            write_private(cookie, self._cookie)
        else:
            read_or_create(cookie, lambda: secrets.token_hex(20))
        write_private(self.directory / "enabled_plugins", "[rabbitmq_management,rabbitmq_prometheus].\n")
        write_private(self.directory / "rabbitmq-env.conf", "")
        write_private(self.directory / "advanced.config", "[].\n")
        settings = {
            "default_vhost": VHOST,
            "default_user": ADMINISTRATOR,
            "default_pass": self._password,
            "management.tcp.ip": LOOPBACK,
            "management.tcp.port": self.ports.management,
            "prometheus.tcp.ip": LOOPBACK,
            "prometheus.tcp.port": self.ports.prometheus,
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.relative": 0.4,
        }
        lines = (f"{key} = {value}\n" for key, value in settings.items())
        write_private(self.directory / "rabbitmq.conf", "".join(lines))

    def _environment(self) -> dict[str, str]:
        own = {
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.ports.amqp),
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"
            ),
            "ERL_EPMD_PORT": str(self._epmd_port),
            # Its log ends with the reason then, and nothing is left in the folder where one started it.
            "ERL_CRASH_DUMP_SECONDS": "0",
            # The script becomes the Erlang machine, which stops in order on SIGTERM, and is not its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANG": "C.UTF-8", **own}

    async def _takes_connections(self, _: Child) -> bool:
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(LOOPBACK, self.ports.amqp)
                writer.write(PROTOCOL_HEADER)
                answer = await reader.read(1)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            return False
        method_frame = b"\x01"
        return answer == method_frame

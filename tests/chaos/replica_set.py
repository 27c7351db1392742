"""A MongoDB replica set of three on this machine, whose primary can be killed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra.local.mongod import REPLICA_SET, Mongod
from infra.local.ports import LOOPBACK, choose_ports
from infra.mongo import Document, PyMongoError, run_command
from tests.harness import eventually

MEMBERS = 3
#: A member that is silent for so long is taken for dead; by default for 10 s.
SETTINGS = {"electionTimeoutMillis": 3000, "heartbeatIntervalMillis": 500}
#: What a command at one member may take, in seconds.
COMMAND_S = 1.0


class ReplicaSet:
    """Its members, by their ports."""

    def __init__(self, folder: Path) -> None:
        ports = choose_ports(dict.fromkeys(f"mongod-{n}" for n in range(MEMBERS)), {})
        self.members = [Mongod(folder / name, port) for name, port in ports.items()]

    @property
    def url(self) -> str:
        hosts = ",".join(f"{LOOPBACK}:{member.port}" for member in self.members)
        return f"mongodb://{hosts}/?replicaSet={REPLICA_SET}"

    async def start(self) -> None:
        for member in self.members:
            await member.start()

        async def initiated() -> bool:
            hosts = [
                {"_id": number, "host": f"{LOOPBACK}:{member.port}"}
                for number, member in enumerate(self.members)
            ]
            config = {"_id": REPLICA_SET, "members": hosts, "settings": SETTINGS}
            command: Document = {"replSetInitiate": config}
            return await self._command(self.members[0], command) is not None

        await eventually(initiated, "three members to make a set of")
        await self.primary()

    async def primary(self) -> Mongod:
        """Wait until there is one."""
        found: list[Mongod] = []

        async def there() -> bool:
            for member in self.members:
                hello = await self._command(member, {"hello": 1}) if member.pid else None
                if hello is not None and hello.get("isWritablePrimary"):
                    found.append(member)
            return bool(found)

        await eventually(there, "a primary")
        return found[-1]

    async def stop(self) -> None:
        for member in self.members:
            member.kill()
            await member.stop()

    async def _command(self, member: Mongod, command: Document) -> Document | None:
        try:
            return await run_command(f"mongodb://{LOOPBACK}:{member.port}/", command, timeout_s=COMMAND_S)
        except PyMongoError:
            return None


@asynccontextmanager
async def replica_set(folder: Path) -> AsyncIterator[ReplicaSet]:
    members = ReplicaSet(folder)
    try:
        await members.start()
        yield members
    finally:
        await members.stop()

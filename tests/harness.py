"""What integration tests stand on: real services, a vhost and a database of their own, real processes."""

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeAlias, cast
from urllib.parse import quote, urlsplit

import aiohttp
from aio_pika import connect_robust
from aio_pika.abc import AbstractRobustConnection
from pydantic import SecretStr
from pymongo.read_concern import ReadConcern

from contracts import Keyway, names
from infra.management import management
from infra.mongo import Document, Mongo
from infra.mongo import connect as connect_mongo
from infra.provision import Provisioner
from infra.settings import Settings
from infra.vault import Vault
from tests.preloaded import BYTECODE, UNHELPFUL, PreloadedProcess, preloaded
from workers.keys.key import Limits
from workers.keys.registry import KeyRegistry

ACTOR = "test"
READY_S = 120.0
#: What a wait may take on a machine that is busy with something else, in seconds: it costs nothing where all
#: is well.
PATIENCE_S = 180.0
#: Set by pytest, so that processes start with their imports done; a bench measures them as they are.
PRELOAD = "KEYWAY_TESTS_PRELOAD"


Process: TypeAlias = asyncio.subprocess.Process | PreloadedProcess


def child_environment(**own: str) -> dict[str, str]:
    """The environment of a child process: nobody's settings but its own."""
    not_ours = ("KEYWAY_", "OTEL_", *UNHELPFUL)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(not_ours)}
    return {**inherited, "PYTHONPYCACHEPREFIX": str(BYTECODE), **own}


async def eventually(
    condition: Callable[[], Awaitable[bool]],
    what: str,
    *,
    within_s: float = PATIENCE_S,
    every_s: float = 0.05,
) -> None:
    """Wait for a state that comes by itself; fail saying what did not come."""
    deadline = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(every_s)


async def start_process(
    environment: dict[str, str],
    *arguments: str,
    folder: Path | None = None,
    given: BinaryIO | None = None,
    output: BinaryIO,
    error: BinaryIO,
) -> Process:
    """Start `python -m ARGUMENTS`, from a process with its imports where `PRELOAD` is set."""
    folder = folder or Path.cwd()
    if os.environ.get(PRELOAD):
        descriptors = (None if given is None else given.fileno(), output.fileno(), error.fileno())
        return await preloaded().start(list(arguments), environment, folder, descriptors)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        env=environment,
        cwd=folder,
        stdin=given,
        stdout=output,
        stderr=error,
    )


@dataclass
class Service:
    """A process of Keyway that does what `python -m` does; in `make test` it comes with its imports done."""

    process: Process
    log: Path

    @classmethod
    async def start(cls, log: Path, environment: dict[str, str], *arguments: str) -> "Service":
        with log.open("ab") as output:
            return cls(await start_process(environment, *arguments, output=output, error=output), log)

    async def wait_for(self, text: str, *, within_s: float = READY_S) -> None:
        async def there() -> bool:
            if self.process.returncode is not None:
                raise AssertionError(
                    f"it ended with {self.process.returncode}: {self.log.read_text()[-2000:]}"
                )
            return text in self.log.read_text()

        await eventually(there, f"{text!r} in {self.log}", within_s=within_s)

    async def stop(self, how: signal.Signals = signal.SIGTERM, *, within_s: float = PATIENCE_S) -> int:
        if self.process.returncode is None:
            self.process.send_signal(how)
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    def events(self) -> list[dict[str, Any]]:
        """The log's events, without a last line that is not written to its end; texts may hold U+2028."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.split("\n") if line.startswith("{")]


@dataclass
class Simulator:
    """The provider, in a process of its own."""

    service: Service
    url: str
    session: aiohttp.ClientSession

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    async def script(self, name: str, **script: Any) -> None:
        async with self.session.put(f"{self.url}/admin/keys/{name}", json=script) as response:
            assert response.status < 300, await response.text()

    async def in_flight(self) -> int:
        """Calls that have no answer yet."""
        async with self.session.get(f"{self.url}/healthz") as response:
            calls: int = (await response.json())["in_flight"]
            return calls

    async def journal(self, key: str | None = None) -> list[dict[str, Any]]:
        """Every call that the provider saw, in the order of their ends; of one key or of all."""
        only = {} if key is None else {"key": key}
        async with self.session.get(f"{self.url}/admin/journal", params=only) as response:
            calls: list[dict[str, Any]] = (await response.json())["calls"]
            return calls


@dataclass
class World:
    """One test's Keyway: its own vhost, database, simulator and processes."""

    settings: Settings
    environment: dict[str, str]
    folder: Path
    mongo: Mongo
    admin: Any
    connection: AbstractRobustConnection
    simulator: Simulator
    services: list[Service] = field(default_factory=list)
    tokens: dict[str, SecretStr] = field(default_factory=dict)
    api_keys: list[str] = field(default_factory=list)

    @property
    def provisioner(self) -> Provisioner:
        return Provisioner(self.mongo, self.admin, self.connection, self.settings)

    @property
    def keys(self) -> KeyRegistry:
        return KeyRegistry(self.mongo, Vault(self.settings.master_keys), ACTOR)

    async def add_automation(self, name: str | None = None, **settings: int | None) -> str:
        """Add an automation, by default under a name that no other test has; with settings of its own."""
        name = name or f"bot-{secrets.token_hex(4)}"
        self.tokens[name] = await self.provisioner.add(name, actor=ACTOR, settings=settings)
        return name

    async def script(self, automation: str, alias: str, **script: Any) -> None:
        """Change what the simulator does with a key that `add_key` made."""
        await self.simulator.script(f"{automation}-{alias}", **script)

    async def add_key(
        self,
        automation: str,
        alias: str,
        script: dict[str, Any] | None = None,
        *,
        limits: Limits | None = None,
        base_url: str | None = None,
    ) -> str:
        """Add a key, and script it at the simulator under `<automation>-<alias>`."""
        api_key = f"sk-test-{secrets.token_hex(16)}"
        self.api_keys.append(api_key)
        await self.simulator.script(f"{automation}-{alias}", api_key=api_key, **(script or {}))
        return await self.keys.add(
            automation,
            alias,
            SecretStr(api_key),
            limits=limits or Limits(),
            base_url=base_url or self.simulator.base_url,
        )

    async def journal(self, automation: str) -> list[dict[str, Any]]:
        """What the provider saw of an automation."""
        calls = await self.simulator.journal()
        return [call for call in calls if call["key"].startswith(f"{automation}-")]

    async def start(
        self,
        *arguments: str,
        ready: str,
        clock_offset_s: int = 0,
        constants: str = "",
        **environment: str,
    ) -> Service:
        """Start a service and wait until it says that it is ready.

        Args:
            arguments: what is said on the command line.
            ready: the log event that says so.
            clock_offset_s: how wrong the clock of its machine is.
            constants: `module.NAME=VALUE …`, which it has other values of.
            environment: what it has beside the world's.
        """
        log = self.folder / f"{arguments[0]}-{len(self.services)}.log"
        module = ["workers.cli.main"]
        if clock_offset_s:
            module = ["tests.wrong_clock", str(clock_offset_s), *module]
        if constants:
            module = ["tests.altered", *constants.split(), "--", *module]
        service = await Service.start(log, {**self.environment, **environment}, *module, *arguments)
        self.services.append(service)
        await service.wait_for(ready)
        return service

    async def start_worker(
        self, *, clock_offset_s: int = 0, constants: str = "", **environment: str
    ) -> Service:
        return await self.start(
            "worker",
            ready="worker_ready",
            clock_offset_s=clock_offset_s,
            constants=constants,
            **environment,
        )

    async def silence_workers(self, *ids: str) -> None:
        """Let the half minute of silence be over by which workers that do not answer are known for dead.

        By default those that there are; a test that names some has others that live.
        """
        silent = {"$set": {"alive_until": datetime.now(UTC) - timedelta(minutes=1)}}
        await self.mongo.workers.update_many({"_id": {"$in": ids}} if ids else {}, silent)

    async def start_accounting(self, **environment: str) -> Service:
        return await self.start("accounting", ready="accounting_ready", clock_offset_s=0, **environment)

    async def start_leasing(self) -> Service:
        return await self.start("leasing", ready="leasing_ready")

    def url_of(self, user: str, token: SecretStr | None = None) -> str:
        """The AMQP address for a user; by default for an automation with the token that it was added with."""
        where = urlsplit(self.settings.amqp_url.get_secret_value())
        password = (token or self.tokens[user]).get_secret_value()
        return where._replace(netloc=f"{user}:{password}@{where.hostname}:{where.port}").geturl()

    @asynccontextmanager
    async def client(self, automation: str) -> AsyncIterator[Keyway]:
        """A client that signs in as the automation itself."""
        async with Keyway(self.url_of(automation)) as keyway:
            yield keyway

    async def close_connections(self, user: str) -> None:
        """Close a user's connections, as an operator on the management page can, once there are some."""

        async def closed() -> bool:
            listed = await self.admin.call("GET", "vhosts/{vhost}/connections")
            own = [quote(connection["name"], safe="") for connection in listed if connection["user"] == user]
            for name in own:
                await self.admin.call("DELETE", f"connections/{name}", may_be_missing=True)
            return bool(own)

        await eventually(closed, f"connections of {user} in the management API")

    async def ledger(self, automation: str) -> list[Document]:
        """The rows that a snapshot taken now has too; a local read is ahead of it, even on one server."""
        usage = self.mongo.usage.with_options(read_concern=ReadConcern("majority"))
        found = usage.find({"automation_id": automation})
        return [row async for row in found.sort([("occurred_at", 1), ("_id", 1)])]

    async def accounted(self, automation: str, attempts: int) -> list[Document]:
        """The ledger, once it has so many rows."""

        async def there() -> bool:
            return len(await self.ledger(automation)) >= attempts

        await eventually(there, f"{attempts} ledger rows of {automation}")
        return await self.ledger(automation)

    async def assert_books_equal_journal(self, automation: str) -> None:
        """Ledger, totals and the provider's own journal agree, call by call and token by token.

        Probes cost nothing, and are in no ledger.
        """
        calls = [call for call in await self.journal(automation) if call["path"] != "/models"]
        rows = await self.accounted(automation, len(calls))
        for alias in {row["key_alias"] for row in rows}:
            seen = [call for call in calls if call["key"] == f"{automation}-{alias}"]
            booked = [row for row in rows if row["key_alias"] == alias]
            assert sorted(call["http_status"] for call in seen) == sorted(
                row["http_status"] for row in booked
            )
            for tokens in ("prompt_tokens", "completion_tokens", "total_tokens"):
                assert sum(call[tokens] for call in seen) == sum(row[tokens] for row in booked), (
                    alias,
                    tokens,
                )
        assert len(rows) == len(calls)
        for dimension in ("key", "automation", "model"):
            await self.assert_totals_equal_ledger(automation, dimension)

    async def assert_totals_equal_ledger(self, automation: str, dimension: str) -> None:
        # At one moment, since accounting may still have something to book.
        async with self.mongo.snapshot() as session:
            found = self.mongo.usage.find({"automation_id": automation}, session=session)
            rows = [row async for row in found]
            named = {"automation_id": automation, "dimension": dimension}
            totals = [total async for total in self.mongo.usage_daily.find(named, session=session)]
        for summed in ("prompt_tokens", "completion_tokens", "total_tokens", "cost_nanousd", "latency_ms"):
            assert sum(total[summed] for total in totals) == sum(row[summed] for row in rows), (
                dimension,
                summed,
            )
        assert sum(total["attempts"] for total in totals) == len(rows)

    async def key(self, automation: str, alias: str) -> Document:
        return await self.keys.find(automation, alias)

    async def cli(self, *arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
        """Run a command; its status, standard output and standard error."""
        with TemporaryFile() as given, TemporaryFile() as output, TemporaryFile() as error:
            given.write(stdin.encode())
            given.seek(0)
            process = await start_process(
                {**self.environment, **environment},
                "workers.cli.main",
                *arguments,
                folder=self.folder,
                given=cast("BinaryIO", given),
                output=cast("BinaryIO", output),
                error=cast("BinaryIO", error),
            )
            async with asyncio.timeout(READY_S):
                status = await process.wait()
            output.seek(0)
            error.seek(0)
            return status, output.read().decode(), error.read().decode()


@asynccontextmanager
async def start_simulator(folder: Path, session: aiohttp.ClientSession) -> AsyncIterator[Simulator]:
    port_file = folder / "simulator.port"
    service = await Service.start(
        folder / "simulator.log",
        child_environment(),
        "infra.local.simulator",
        "--port",
        "0",
        "--port-file",
        str(port_file),
    )
    try:
        await service.wait_for("listening on")
        yield Simulator(service, f"http://127.0.0.1:{port_file.read_text().strip()}", session)
    finally:
        await service.stop()


@asynccontextmanager
async def new_world(
    backing: dict[str, str], folder: Path, *, leaves_vhost: bool = False
) -> AsyncIterator[World]:
    """A Keyway of its own on the services that `backing` names.

    Args:
        backing: the addresses of those services.
        folder: where its processes log.
        leaves_vhost: whether its vhost and users stay, on a RabbitMQ that ends with the test or the run.
    """
    name = f"test-{secrets.token_hex(5)}"
    amqp = urlsplit(backing["KEYWAY_AMQP_URL"])._replace(path=f"/{name}").geturl()
    master_key = "bWFzdGVyLWtleS1mb3ItdGVzdHMtMzItYnl0ZXMtISE="
    own = {
        **backing,
        "KEYWAY_AMQP_URL": amqp,
        "KEYWAY_MONGO_DATABASE": name,
        "KEYWAY_MASTER_KEYS": f"test:{master_key}",
        "KEYWAY_LOG_FORMAT": "json",
    }
    environment = child_environment(**own)
    settings = Settings.model_validate(
        {key.removeprefix("KEYWAY_").lower(): value for key, value in own.items()}
    )
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        admin = await stack.enter_async_context(management(settings))
        await admin.ensure_vhost()
        if not leaves_vhost:
            stack.push_async_callback(admin.call, "DELETE", "vhosts/{vhost}")
        mongo = await stack.enter_async_context(connect_mongo(backing["KEYWAY_MONGO_URL"], name))
        stack.push_async_callback(mongo.database.client.drop_database, name)
        simulator = await stack.enter_async_context(start_simulator(folder, session))
        initialised = await Service.start(
            folder / "init.log", environment, "workers.cli.main", "init", "--no-operator"
        )
        assert await initialised.process.wait() == 0, initialised.log.read_text()
        connection = await stack.enter_async_context(await connect_robust(amqp))
        world = World(settings, environment, folder, mongo, admin, connection, simulator)
        try:
            yield world
        finally:
            await asyncio.gather(*(service.stop() for service in world.services))
            for automation in () if leaves_vhost else world.tokens:
                await admin.call("DELETE", f"users/{automation}")
                await admin.call("DELETE", f"users/{names.next_user(automation)}", may_be_missing=True)

"""A service that can't start says in one line why; one that only has to wait says so, and waits."""

import asyncio
import contextlib

import pytest

from infra.local.ports import choose_ports
from tests.harness import Service, World


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"KEYWAY_MASTER_KEYS": ""}, "KEYWAY_MASTER_KEYS: missing"),
        (
            {"KEYWAY_MASTER_KEYS": "local:c2hvcnQ="},
            "KEYWAY_MASTER_KEYS: expected `id:base64,…` with 32 bytes",
        ),
        ({"KEYWAY_MAX_IN_FLIGHT": "many"}, "KEYWAY_MAX_IN_FLIGHT: Input should be a valid integer"),
        ({"KEYWAY_AMQP_URL": "localhost"}, "KEYWAY_AMQP_URL: expected an address that begins with"),
    ],
)
async def test_a_wrong_setting_stops_the_start_with_one_line(
    shared: World, changed: dict[str, str], expected: str
) -> None:
    status, stdout, stderr = await shared.cli("worker", **changed)
    assert status == 1
    assert stdout == ""
    (line,) = stderr.strip().splitlines()
    assert line.startswith(f"error: {expected}")


@pytest.mark.parametrize("service", ["worker", "accounting", "leasing", "init"])
async def test_a_wrong_amqp_password_stops_the_start_with_one_line(shared: World, service: str) -> None:
    url = shared.environment["KEYWAY_AMQP_URL"]
    user = url.partition("://")[2].partition(":")[0]
    wrong = f"amqp://{user}:not-the-password@{url.rpartition('@')[2]}"
    status, _, stderr = await shared.cli(service, KEYWAY_AMQP_URL=wrong)
    assert status == 1
    assert stderr.strip().splitlines()[-1] == "error: KEYWAY_AMQP_URL: RabbitMQ refuses the user or password"
    assert "Traceback" not in stderr
    assert "not-the-password" not in stderr


async def test_a_worker_waits_for_a_mongodb_that_is_not_there_yet_and_says_so(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    where = world.environment["KEYWAY_MONGO_URL"].removeprefix("mongodb://").partition("/")[0]
    host, _, port = where.partition(":")
    relay = Relay(host, int(port))
    relay.bind()
    worker = await Service.start(
        world.folder / "waiting.log",
        {**world.environment, "KEYWAY_MONGO_URL": f"mongodb://127.0.0.1:{relay.port}/?directConnection=true"},
        "workers.cli.main",
        "worker",
    )
    world.services.append(worker)
    await worker.wait_for("mongo_unreachable")
    await relay.listen()
    await worker.wait_for("worker_ready")
    await relay.close()


async def test_a_command_for_an_automation_that_is_not_there_says_what_to_do(shared: World) -> None:
    for arguments, stdin in (
        (("keys", "add", "nobody", "Primary"), "sk-test-key-of-nobody"),
        (("keys", "list", "nobody"), ""),
        (("keys", "disable", "nobody", "Primary"), ""),
        (("automations", "disable", "nobody"), ""),
        (("automations", "rotate-token", "nobody"), ""),
    ):
        status, _, stderr = await shared.cli(*arguments, stdin=stdin)
        assert status == 1
        assert stderr.strip() == "error: no automation nobody; see `keyway automations list`"


async def test_who_asks_as_nobody_is_told_so_though_there_never_was_an_automation(world: World) -> None:
    status, _, stderr = await world.cli("generate", "nobody", "hello")
    assert (status, stderr.strip()) == (1, "error: there is no automation nobody")


async def test_a_command_without_a_database_says_so_in_one_line(shared: World) -> None:
    status, _, stderr = await shared.cli(
        "keys", "list", KEYWAY_MONGO_URL="mongodb://127.0.0.1:9/?replicaSet=rs0"
    )
    assert status == 1
    assert stderr.strip().startswith("error: KEYWAY_MONGO_URL: no answer from MongoDB")


async def test_a_key_that_is_added_twice_is_refused_and_named(shared: World) -> None:
    bot, other = await shared.add_automation(), await shared.add_automation()
    status, stdout, _ = await shared.cli(
        "keys", "add", bot, "Primary", "--json", stdin="sk-test-the-same-key"
    )
    assert status == 0
    assert '"alias": "Primary"' in stdout
    status, _, stderr = await shared.cli("keys", "add", other, "Mine", stdin="sk-test-the-same-key")
    assert status == 1
    assert f"{bot}/Primary" in stderr


async def test_keys_are_imported_from_a_file_and_what_is_wrong_is_named_by_its_line(shared: World) -> None:
    bot = await shared.add_automation()
    file = shared.folder / f"{bot}.csv"
    file.write_text(
        "automation,alias,api_key,rpm\n"
        f"{bot},A,sk-test-import-a-{bot},60\n"
        f"{bot},A,sk-test-import-b-{bot},60\n"
        f"nobody,B,sk-test-import-c-{bot},60\n"
        f"{bot},C,sk-test-import-d-{bot},sixty\n"
        f"{bot},D,sk-test-import-e-{bot},\n"
    )
    status, _, stderr = await shared.cli("keys", "import", str(file))
    assert status == 1
    assert "Imported 2 of 5 keys." in stderr
    assert "line 3:" in stderr
    assert "line 4: no automation nobody" in stderr
    assert "line 5: a limit is not a whole number" in stderr
    assert {key["alias"] for key in await shared.keys.list(bot)} == {"A", "D"}


class Relay:
    """A port that is MongoDB's once it listens."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self.server: asyncio.Server | None = None

    def bind(self) -> None:
        """Take a free port, without answering there."""
        self.port = choose_ports({"relay": None}, {})["relay"]

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def close(self) -> None:
        assert self.server is not None
        self.server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self.target)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.CancelledError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()

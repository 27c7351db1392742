"""RabbitMQ and mongod as our child processes: what they keep, how they come back, that none stays behind."""

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import aiohttp
import psutil  # type: ignore[import-untyped, unused-ignore]
import pytest
from aio_pika.abc import AbstractChannel
from pydantic import SecretStr

from infra.errors import StackError
from infra.local.home import Home
from infra.local.leftovers import marked, started_at
from infra.local.mongod import Mongod
from infra.local.ports import LOOPBACK, choose_ports
from infra.local.rabbitmq import RabbitMQ, RabbitPorts
from infra.local.stack import Layout, Stack, StackInfo, backing_services
from infra.local.state import running_state
from infra.mongo import Mongo, Session
from infra.mongo import connect as connect_mongo
from tests.chaos.own_services import RABBITMQ_PORTS
from tests.harness import child_environment, eventually

ROOT = Path(__file__).parents[2]
OUTSIDE = ("KEYWAY_AMQP_URL", "KEYWAY_AMQP_ADMIN_URL", "KEYWAY_MONGO_URL", "KEYWAY_MASTER_KEYS")
QUEUE = "kept"
READY_S = 120.0


@dataclass
class Running:
    """A stack of RabbitMQ and mongod under supervision."""

    home: Home
    stack: Stack
    info: StackInfo
    lines: asyncio.Queue[str]

    async def kill(self, kind: str) -> None:
        """SIGKILL it, and wait until it is back."""
        await eventually(self._has_queue_on_disk, f"{QUEUE} on disk")
        (old,) = self.stack.pids()[kind]
        os.kill(old, signal.SIGKILL)
        async with asyncio.timeout(READY_S):
            while f"{kind} is back" not in await self.lines.get():
                pass
        assert self.stack.pids()[kind] != [old]

    async def _has_queue_on_disk(self) -> bool:
        """RabbitMQ before 3.13.3 forgets a quorum queue that it is killed 0.5 s after (rabbitmq/ra#443)."""
        names = self.home.rabbitmq.glob("mnesia/*/quorum/*/names.dets")
        return any(QUEUE.encode() in file.read_bytes() for file in names)


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    home = Home(tmp_path_factory.mktemp("stack"))
    lines: asyncio.Queue[str] = asyncio.Queue()
    with pytest.MonkeyPatch.context() as patch, home.lock():
        for name in OUTSIDE:
            patch.delenv(name, raising=False)
        stack = Stack(home, Layout(), lines.put_nowait)
        try:
            info = await stack.start()
            supervision = asyncio.create_task(stack.supervise())
            yield Running(home, stack, info, lines)
            supervision.cancel()
            await asyncio.wait({supervision})
        finally:
            await stack.stop()


async def put(info: StackInfo, body: bytes) -> None:
    """A message and a document that have to last."""
    async with await aio_pika.connect(info.amqp_url.get_secret_value()) as connection:
        channel = await connection.channel()
        await declare(channel)
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, QUEUE)
    async with connect_mongo(info.mongo_url.get_secret_value(), "kept") as mongo:
        await mongo.requests.insert_one({"_id": body.decode()})


async def get(info: StackInfo) -> tuple[bytes, set[str]]:
    """The message and the documents that lasted."""
    async with await aio_pika.connect(info.amqp_url.get_secret_value()) as connection:
        channel = await connection.channel()
        queue = await declare(channel)
        message = await queue.get()
        await message.ack()
    async with connect_mongo(info.mongo_url.get_secret_value(), "kept") as mongo:
        return message.body, {document["_id"] async for document in mongo.requests.find()}


async def declare(channel: AbstractChannel) -> Any:
    return await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})


async def overview(url: SecretStr, user: str | None = None) -> int:
    """The management API's answer to the URL's user, or to another one whose name is his password."""
    parts = urlsplit(url.get_secret_value())
    authorization = aiohttp.encode_basic_auth(user or parts.username or "", user or parts.password or "")
    address = f"http://{parts.hostname}:{parts.port}/api/overview"
    async with (
        aiohttp.ClientSession(headers={"Authorization": authorization}) as http,
        http.get(address) as answer,
    ):
        return answer.status


async def test_rabbitmq_takes_a_message_and_mongodb_a_document(running: Running) -> None:
    await put(running.info, b"first")
    message, documents = await get(running.info)
    assert message == b"first"
    assert "first" in documents


async def test_the_management_api_knows_its_administrator_and_no_guest(running: Running) -> None:
    assert await overview(running.info.amqp_admin_url) == 200
    assert await overview(running.info.amqp_admin_url, "guest") == 401


async def test_mongodb_runs_transactions(running: Running) -> None:
    async with connect_mongo(running.info.mongo_url.get_secret_value(), "transactions") as mongo:
        with pytest.raises(ZeroDivisionError):
            await mongo.transaction(lambda session: insert_and_fail(mongo, session))
        assert await mongo.requests.count_documents({}) == 0


async def test_they_listen_on_the_loopback_interface_only(running: Running) -> None:
    listening = []
    for process in marked(running.home.path):
        with suppress(psutil.NoSuchProcess):  # RabbitMQ starts some that end at once
            found = process.net_connections()
            listening += [connection.laddr.ip for connection in found if connection.status == "LISTEN"]
    assert len(listening) >= 6
    assert set(listening) <= {"127.0.0.1", "::1"}


async def test_no_password_is_in_an_argument_list_or_a_log(running: Running) -> None:
    password = urlsplit(running.info.amqp_url.get_secret_value()).password
    assert password
    told = []
    for process in marked(running.home.path):
        with suppress(psutil.NoSuchProcess):
            told.append(" ".join(process.cmdline()))
    told += [log.read_text(errors="replace") for log in running.home.logs.iterdir()]
    assert len(told) >= 6
    assert not any(password in text for text in told)


async def test_a_killed_rabbitmq_comes_back_on_the_same_ports_with_its_data(running: Running) -> None:
    await put(running.info, b"before the kill of rabbitmq")
    await running.kill("rabbitmq")
    assert (await get(running.info))[0] == b"before the kill of rabbitmq"


async def test_a_killed_mongod_comes_back_on_the_same_port_with_its_data(running: Running) -> None:
    await put(running.info, b"before the kill of mongod")
    await running.kill("mongod")
    assert "before the kill of mongod" in (await get(running.info))[1]


async def insert_and_fail(mongo: Mongo, session: Session) -> None:
    await mongo.requests.insert_one({"_id": "never"}, session=session)
    raise ZeroDivisionError


async def test_a_stop_leaves_no_process_and_a_second_start_finds_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    async with backing_services(tmp_path) as first:
        await put(first, b"kept")
    assert marked(tmp_path) == []
    async with backing_services(tmp_path) as second:
        assert second == first
        assert await get(second) == (b"kept", {"kept"})
    assert marked(tmp_path) == []


async def test_a_mongod_that_has_to_move_to_another_port_keeps_its_data(tmp_path: Path) -> None:
    ports = choose_ports({"old": None, "new": None}, {})
    for port in ports.values():
        mongod = Mongod(tmp_path, port)
        try:
            await mongod.start()
            await mongod.wait_ready()
            async with connect_mongo(mongod.url.get_secret_value(), "kept") as mongo:
                await mongo.requests.insert_one({"_id": port})
                found = {document["_id"] async for document in mongo.requests.find()}
        finally:
            await mongod.stop()
    assert found == set(ports.values())
    assert marked(tmp_path) == []


async def test_a_rabbitmq_that_cannot_start_says_why_and_leaves_nothing_where_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    ports = choose_ports(RABBITMQ_PORTS, {})
    rabbitmq = RabbitMQ(tmp_path / "rabbitmq", RabbitPorts(**ports))
    with socket.create_server((LOOPBACK, ports["distribution"])):
        try:
            await rabbitmq.start()
            with pytest.raises(StackError, match=f"dist_port_already_used,{ports['distribution']}"):
                await rabbitmq.wait_ready()
        finally:
            await rabbitmq.stop()
    assert list(here.iterdir()) == []


@dataclass
class Keyway:
    """The command line, with a data directory of its own and the session's RabbitMQ and MongoDB."""

    home: Path
    environment: dict[str, str]

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Run one command.

        Returns:
            Its exit status, standard output and standard error.
        """
        process = await self.start(*arguments)
        async with asyncio.timeout(READY_S):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "workers.cli.main", *arguments),
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Whoever runs the tests in the background has it ignored, and a child would inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    async def state(self) -> dict[str, Any]:
        """What `status --json` prints."""
        _, out, _ = await self("status", "--json")
        state: dict[str, Any] = json.loads(out)
        return state


@pytest.fixture
async def keyway(backing: dict[str, str], tmp_path: Path) -> AsyncIterator[Keyway]:
    name = f"stack-{secrets.token_hex(4)}"
    amqp_url = urlsplit(backing["KEYWAY_AMQP_URL"])._replace(path=f"/{name}").geturl()
    own = {"KEYWAY_HOME": str(tmp_path), "KEYWAY_AMQP_URL": amqp_url, "KEYWAY_MONGO_DATABASE": name}
    command = Keyway(tmp_path, child_environment(**{**backing, **own}))
    yield command
    if running_state(Home(tmp_path)):
        await command("down")
    assert marked(tmp_path) == []


def all_gone(state: dict[str, Any]) -> bool:
    return not any(started_at(pid) for pids in state["pids"].values() for pid in pids)


async def assert_the_first_operator_may_sign_in(console_url: str, err: str, home: Path) -> None:
    """With the one-time password that `up` has told, which stands in no file."""
    assert f"console     {console_url}" in err
    found = re.search(r"sign in as admin with (\S+)", err)
    assert found is not None
    credentials = {"username": "admin", "password": found[1]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{console_url}/api/session", json=credentials) as response,
    ):
        assert (response.status, (await response.json())["must_change_password"]) == (200, True)
    assert files_with(home, found[1]) == []


def files_with(folder: Path, text: str) -> list[Path]:
    """The files below a folder in which a text stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


async def test_up_status_and_down_as_a_script_uses_them(keyway: Keyway) -> None:
    code, out, err = await keyway("up", "--detach", "--workers", "1", "--no-demo")
    assert code == 0, err
    assert out == ""
    state = await keyway.state()
    assert state["ready"]
    assert state["amqp_url"] == keyway.environment["KEYWAY_AMQP_URL"]
    services = {"generation", "accounting", "leasing", "console"}
    assert state["pids"].keys() == {"supervisor", "simulator", *services}
    await assert_the_first_operator_may_sign_in(state["console_url"], err, keyway.home)
    assert state["metrics_urls"].keys() == services
    for name, url in state["metrics_urls"].items():
        assert f"metrics     {url} ({name})" in err
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert "process_cpu_seconds_total" in await response.text()

    code, out, _ = await keyway("status")
    assert code == 0
    password = urlsplit(keyway.environment["KEYWAY_AMQP_URL"]).password
    assert password
    assert ":***@" in out
    assert password not in out

    running = rf"already running \(pid {state['pids']['supervisor'][0]}\); see keyway status\n"
    code, _, err = await keyway("up", "--detach")
    assert (code, bool(re.fullmatch(running, err))) == (0, True)
    for arguments in (("up",), ("up", "--detach", "--fresh")):
        code, _, err = await keyway(*arguments)
        assert (code, bool(re.fullmatch(f"error: {running}", err))) == (1, True)

    code, _, err = await keyway("down")
    assert code == 0
    assert re.fullmatch(r"stopped; all \d+ processes are gone\n", err)
    assert all_gone(state)
    assert await keyway("down") == (0, "", "nothing is running\n")
    assert await keyway("status") == (1, "", "nothing is running; start it with: keyway up\n")
    assert not (await keyway.state())["ready"]


async def test_a_killed_worker_is_replaced_and_a_killed_supervisor_leaves_nothing(keyway: Keyway) -> None:
    await keyway("up", "--detach", "--workers", "1", "--no-demo")
    before = await keyway.state()
    (worker,) = before["pids"]["generation"]
    os.kill(worker, signal.SIGKILL)

    async def replaced() -> bool:
        state = running_state(Home(keyway.home))
        return state is not None and state.pids["generation"] not in ([], [worker])

    await eventually(replaced, "another worker", within_s=READY_S)

    state = await keyway.state()
    os.kill(state["pids"]["supervisor"][0], signal.SIGKILL)
    assert not (await keyway.state())["ready"]
    await keyway("down")
    assert all_gone(state)


async def test_ctrl_c_stops_what_runs_in_the_foreground(keyway: Keyway) -> None:
    process = await keyway.start("up", "--workers", "1", "--no-demo")
    assert process.stderr
    async with asyncio.timeout(READY_S):
        async for line in process.stderr:
            if b"Ctrl-C stops everything" in line:
                break
    state = await keyway.state()
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(READY_S):
        _, err = await process.communicate()
    assert process.returncode == 0
    assert b"stopping; once more kills everything at once" in err
    assert all_gone(state)


async def test_a_start_that_fails_says_why_in_one_line_and_leaves_nothing(keyway: Keyway) -> None:
    keyway.environment["KEYWAY_AMQP_ADMIN_URL"] = "http://user:secret@127.0.0.1:9"
    for arguments in (("up",), ("up", "--detach")):
        code, _, err = await keyway(*arguments)
        assert code == 1
        last = err.splitlines()[-1]
        assert last.startswith("error: init failed: KEYWAY_AMQP_ADMIN_URL: no management API at 127.0.0.1:9")
        assert "secret" not in err
        assert marked(keyway.home) == []

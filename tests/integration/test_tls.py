"""RabbitMQ and MongoDB by TLS, with the configuration and the certificates that compose starts them with."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from contracts import Keyway
from contracts.errors import PublishError
from infra.deploy import certificates, secret_files
from infra.errors import BrokerError, PlatformError
from infra.local.mongod import find_mongod, initiate_replica_set
from infra.local.ports import LOOPBACK, choose_ports
from infra.local.private_files import write_private
from infra.local.process import Child
from infra.local.rabbitmq import RabbitMQ, RabbitPorts
from infra.local.readiness import wait_until_ready
from infra.management import management
from infra.mongo import PyMongoError, connect, run_command, wait_for_mongo
from infra.settings import Settings
from tests.chaos.own_services import RABBITMQ_PORTS
from tests.harness import Service, World, eventually, new_world

DEPLOY = Path(__file__).parents[2] / "infra/deploy"
READY_S = 60.0


class TlsNode(RabbitMQ):
    """A node that reads tls.conf too; it keeps its plain port, by which it is known to be ready."""

    def __init__(self, directory: Path, ports: RabbitPorts, tls_ports: dict[str, int], secrets: Path) -> None:
        super().__init__(directory, ports)
        text = (DEPLOY / "rabbitmq/tls.conf").read_text().replace("listeners.tcp = none\n", "")
        for written, real in tls_ports.items():
            text = text.replace(f"= {written}\n", f"= {real}\n")
        self._tls = text.replace(secret_files.MOUNTED, str(secrets))

    def _configure(self) -> None:
        super()._configure()
        conf = self.directory / "rabbitmq.conf"
        write_private(conf, conf.read_text() + self._tls)


@dataclass(frozen=True)
class Secured:
    """Addresses of both servers, each with the authority that is to be trusted."""

    amqp: str
    admin: str
    mongo: str
    own: Path
    another: Path

    def environment(self, trusted: Path) -> dict[str, str]:
        authority = quote(str(trusted / "ca.pem"), safe="/")
        return {
            "KEYWAY_AMQP_URL": f"{self.amqp}?cafile={authority}",
            "KEYWAY_AMQP_ADMIN_URL": f"{self.admin}?cafile={authority}",
            "KEYWAY_MONGO_URL": f"{self.mongo}&tls=true&tlsCAFile={authority}",
        }

    def settings(self, trusted: Path) -> Settings:
        found = self.environment(trusted).items()
        return Settings.model_validate({name.removeprefix("KEYWAY_").lower(): value for name, value in found})


def mongod(folder: Path, secrets: Path, port: int) -> Child:
    """MongoDB by start.sh, with what the image has around it: folders, and an entry point."""
    program = find_mongod()
    assert program is not None
    for name in ("bin", "configdb", "db"):
        (folder / name).mkdir()
    script = (DEPLOY / "mongo/start.sh").read_text().replace("/data/configdb", str(folder / "configdb"))
    script = script.replace(secret_files.MOUNTED, str(secrets)).replace(
        "--bind_ip_all", f"--bind_ip {LOOPBACK}"
    )
    (folder / "start.sh").write_text(script)
    entry = folder / "bin/docker-entrypoint.sh"
    entry.write_text(f'#!/bin/sh\nexec "$@" --dbpath {folder}/db --port {port} --nounixsocket\n')
    entry.chmod(0o700)
    environment = {"PATH": f"{folder}/bin:{program.parent}:{os.environ['PATH']}", "LANG": "C.UTF-8"}
    return Child("mongod", ("bash", str(folder / "start.sh")), environment, folder / "mongod.log")


async def begin(server: Child, address: str, authority: Path) -> None:
    """What the image's entry point and health.js do: a replica set of one, and its root."""
    tls = f"?tls=true&tlsCAFile={authority}"

    async def made(_: Child) -> bool:
        try:
            await initiate_replica_set(f"mongodb://{address}/{tls}")
            root = {"createUser": "root", "pwd": "s3cr3t", "roles": ["root"]}
            await run_command(f"mongodb://{address}/{tls}", root)
        except PyMongoError:
            return False
        return True

    await wait_until_ready(server, made, READY_S)


@pytest.fixture(scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    """Both servers by TLS."""
    folder = tmp_path_factory.mktemp("tls")
    own, another = folder / "secrets", folder / "another"
    secret_files.write(own, tls=True)
    certificates.issue(another, ["localhost"])
    ports = choose_ports(dict.fromkeys([*RABBITMQ_PORTS, "amqps", "https", "mongo"]), {})
    node_ports = RabbitPorts(**{name: ports[name] for name in RABBITMQ_PORTS})
    node = TlsNode(folder / "rabbitmq", node_ports, {"5671": ports["amqps"], "15671": ports["https"]}, own)
    (folder / "mongo").mkdir()
    server = mongod(folder / "mongo", own, ports["mongo"])
    try:
        await node.start()
        await server.start()
        await begin(server, f"{LOOPBACK}:{ports['mongo']}", own / "ca.pem")
        await node.wait_ready()
        user = node.amqp_url.get_secret_value().removeprefix("amqp://").partition("@")[0]
        yield Secured(
            amqp=f"amqps://{user}@{LOOPBACK}:{ports['amqps']}/keyway",
            admin=f"https://{user}@{LOOPBACK}:{ports['https']}/",
            mongo=f"mongodb://root:s3cr3t@{LOOPBACK}:{ports['mongo']}/?replicaSet=rs0",
            own=own,
            another=another,
        )
    finally:
        node.kill()
        await node.stop()
        await server.stop(1)


@pytest.fixture(scope="module")
async def encrypted(secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A Keyway that knows its servers by TLS only."""
    async with new_world(secured.environment(secured.own), tmp_path_factory.mktemp("encrypted")) as world:
        yield world


async def finds_its_worker(world: World) -> bool:
    """Whether a container's health check does."""
    check = ("infra.deploy.healthcheck", "generation")
    service = await Service.start(world.folder / "health.log", world.environment, *check)
    return await service.process.wait() == 0


async def test_a_worker_serves_and_is_healthy_where_every_connection_is_encrypted(encrypted: World) -> None:
    bot = await encrypted.add_automation()
    await encrypted.add_key(bot, "Primary")
    await encrypted.start_worker()
    async with encrypted.client(bot) as keyway:
        assert (await keyway.generate("/moderations", input="hello")).status == "succeeded"
    what = "a consumer in the management API"
    await eventually(lambda: finds_its_worker(encrypted), what, every_s=1)


async def test_a_worker_that_trusts_another_authority_ends_with_one_line(
    encrypted: World, secured: Secured
) -> None:
    wrong = secured.environment(secured.another)["KEYWAY_AMQP_URL"]
    status, _, stderr = await encrypted.cli("worker", KEYWAY_AMQP_URL=wrong)
    assert status == 1
    assert (
        "error: KEYWAY_AMQP_URL: RabbitMQ's certificate is not trusted: self-signed"
        in stderr.splitlines()[-1]
    )
    assert "Traceback" not in stderr


async def test_nobody_reads_from_mongodb_without_a_password(secured: Secured) -> None:
    credentials, address = secured.mongo.removeprefix("mongodb://").split("@")
    assert credentials == "root:s3cr3t"
    url = f"mongodb://{address}&tls=true&tlsCAFile={secured.own / 'ca.pem'}"
    with pytest.raises(PyMongoError, match="requires authentication"):
        await run_command(url, {"find": "keys"}, database="keyway")


async def test_another_authority_s_servers_are_refused_with_one_line(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.mongo.SERVER_SELECTION_MS", 500)
    wrong = secured.settings(secured.another)
    with pytest.raises(BrokerError, match="management API's certificate is not trusted: self-signed"):
        async with management(wrong) as admin:
            await admin.call("GET", "whoami")
    with pytest.raises(PlatformError, match="KEYWAY_MONGO_URL: MongoDB's certificate is not trusted"):
        async with connect(wrong.mongo_url.get_secret_value(), "keyway") as mongo:
            await wait_for_mongo(mongo)
    with pytest.raises(PublishError, match="its certificate is not trusted: "):
        async with Keyway(wrong.amqp_url.get_secret_value(), automation_id="bot"):
            pass

"""A RabbitMQ cluster of three nodes on this machine, one of which can be killed."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from infra.errors import StackError
from infra.local.epmd import Epmd
from infra.local.ports import choose_ports
from infra.local.private_files import write_private
from infra.local.rabbitmq import RabbitMQ, RabbitPorts
from tests.chaos.erlang import evaluate
from tests.chaos.own_services import RABBITMQ_PORTS

NODES = 3

logger = logging.getLogger(__name__)


class Node(RabbitMQ):
    """One that makes a cluster with others when it starts for the first time."""

    others: Sequence[str] = ()

    def _configure(self) -> None:
        super()._configure()
        with (self.directory / "rabbitmq.conf").open("a") as file:
            for number, name in enumerate(self.others, 1):
                file.write(f"cluster_formation.classic_config.nodes.{number} = {name}\n")


class Cluster:
    """Its nodes; they share a port mapper and a cookie."""

    def __init__(self, folder: Path) -> None:
        epmd_port = choose_ports({"epmd": None}, {})["epmd"]
        mark, cookie = secrets.token_hex(4), secrets.token_hex(20)
        self.epmd = Epmd(epmd_port, folder / "epmd")
        self.nodes: list[Node] = []
        # All at once, so that no two nodes are given the same.
        names = [name for name in RABBITMQ_PORTS if name != "epmd"]
        ports = choose_ports(dict.fromkeys(f"{name}-{n}" for n in range(NODES) for name in names), {})
        password = secrets.token_urlsafe(24)
        for number in range(NODES):
            directory = folder / f"node-{number}"
            directory.mkdir(mode=0o700)
            # A node that joins has the users of the first.
            write_private(directory / "password", password)
            own = {name: ports[f"{name}-{number}"] for name in names}
            self.nodes.append(
                Node(
                    directory,
                    RabbitPorts(**own, epmd=epmd_port),
                    node_name=f"keyway-{mark}-{number}@localhost",
                    cookie=cookie,
                    epmd=self.epmd,
                )
            )
        for node in self.nodes:
            node.others = [other.node_name for other in self.nodes]

    async def start(self) -> None:
        await self.epmd.start()
        for node in self.nodes:
            await node.start()
        await asyncio.gather(*map(_wait_booted, self.nodes))

    async def let_lead(self, node: RabbitMQ, vhost: str) -> None:
        """Make one node the leader of every quorum queue of a vhost."""
        await evaluate(
            node,
            f"[ra:transfer_leadership(Leader, {{element(1, Leader), '{node.node_name}'}}) || "
            f'Queue <- rabbit_amqqueue:list(<<"{vhost}">>), '
            "amqqueue:get_type(Queue) =:= rabbit_quorum_queue, Leader <- [amqqueue:get_pid(Queue)]].",
        )

    async def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        await asyncio.gather(*(node.stop() for node in self.nodes))
        await self.epmd.stop()


async def _wait_booted(node: RabbitMQ) -> None:
    """As a service manager does, start a node once more that ends while it boots."""
    try:
        await node.wait_ready()
    except StackError as error:
        logger.warning("%s: %s", node.node_name, error)
        await node.start()
        await node.wait_ready()


@asynccontextmanager
async def rabbitmq_cluster(folder: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(folder)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()

"""Commands at a running RabbitMQ node of a test's own."""

import asyncio
import os

from infra.local.rabbitmq import RabbitMQ, find_rabbitmq_server

#: What one command may take, in seconds.
COMMAND_S = 60.0


async def rabbitmqctl(node: RabbitMQ, *command: str) -> None:
    server = find_rabbitmq_server()
    assert server is not None
    process = await asyncio.create_subprocess_exec(
        str(server.with_name("rabbitmqctl")),
        *("--node", node.node_name, *command),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(node.directory),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(node.ports.epmd),
            "RABBITMQ_CONF_ENV_FILE": str(node.directory / "rabbitmq-env.conf"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(COMMAND_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()

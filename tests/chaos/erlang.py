"""Erlang evaluated at a running RabbitMQ node of a test's own."""

import asyncio
import shutil
from pathlib import Path

from infra.local.rabbitmq import RabbitMQ

#: What one evaluation may take, in seconds.
EVALUATION_S = 60.0


async def evaluate(node: RabbitMQ, expression: str) -> str:
    """Evaluate at a node what `rabbitmqctl eval` would, for a hundredth of what that costs.

    Args:
        node: runs.
        expression: in Erlang, with its full stop.

    Returns:
        What it came to, as Erlang writes it.
    """
    process = await asyncio.create_subprocess_exec(
        str(_erl_call()),
        *("-n", node.node_name, "-e"),
        # Its cookie is there.
        env={"HOME": str(node.directory), "ERL_EPMD_PORT": str(node.ports.epmd)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(EVALUATION_S):
        output, _ = await process.communicate(f"{expression}\n".encode())
    said = output.decode()
    assert process.returncode == 0, said
    assert said.startswith("{ok, "), said
    return said.removeprefix("{ok, ").removesuffix("}")


def _erl_call() -> Path:
    erl = shutil.which("erl")
    assert erl is not None
    return next(Path(erl).resolve().parents[1].glob("erts-*/bin/erl_call"))

"""The programs of docs/examples, run as a person runs them."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.harness import PATIENCE_S, World, child_environment

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


async def run(world: World, bot: str, example: str, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    """Run an example; its status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / example),
        *arguments,
        env=child_environment(KEYWAY_URL=world.url_of(bot), PYTHONWARNINGS="error"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        stdout, stderr = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


@pytest.fixture
async def bot(shared: World) -> str:
    """An automation with a key."""
    automation = await shared.add_automation()
    await shared.add_key(automation, "Primary")
    return automation


async def test_a_simple_call(shared: World, bot: str) -> None:
    status, stdout, stderr = await run(shared, bot, "simple_call.py")
    assert (status, stderr) == (0, "")
    assert "hello" in stdout
    (row,) = await shared.accounted(bot, 1)
    assert f"{row['total_tokens']} tokens, {row['cost_nanousd'] / 1e9:.6f} USD, key Primary" in stdout
    assert row["user_id"] == "u-42"


async def test_a_simple_call_that_fails_says_why(shared: World) -> None:
    without_keys = await shared.add_automation()
    status, stdout, stderr = await run(shared, without_keys, "simple_call.py")
    assert (status, stdout) == (1, "")
    assert stderr.startswith("no_keys: ")
    assert "(not again)" in stderr


async def test_many_prompts(shared: World, bot: str) -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    status, stdout, stderr = await run(shared, bot, "many_prompts.py", stdin="\n".join(prompts))
    assert status == 0, stderr
    answers = stdout.splitlines()
    assert len(answers) == 40
    assert all(prompt in answer for prompt, answer in zip(prompts, answers, strict=True))
    assert "40 of 40, 0 failed" in stderr
    assert len(await shared.journal(bot)) == 40


async def test_streaming(shared: World, bot: str) -> None:
    status, stdout, stderr = await run(shared, bot, "streaming.py")
    assert (status, stderr) == (0, "")
    text, last = stdout.strip().split("\n")
    assert "Tell me about queues." in text
    (row,) = await shared.accounted(bot, 1)
    assert last == f"{row['total_tokens']} tokens"


async def test_durable_collection(shared: World, bot: str) -> None:
    status, stdout, stderr = await run(shared, bot, "durable_collection.py", "submit")
    assert (status, stderr) == (0, "")
    assert stdout.splitlines() == [f"letter-{number} submitted" for number in (1, 2, 3)]
    await shared.accounted(bot, 3)
    status, stdout, stderr = await run(shared, bot, "durable_collection.py", "collect")
    assert (status, stderr) == (0, "")
    assert sorted(stdout.splitlines()) == [f"letter-{number} has 1 embedding" for number in (1, 2, 3)]


async def test_a_direct_key(shared: World, bot: str) -> None:
    await shared.provisioner.change(bot, {"allow_leases": True}, actor="test")
    await shared.start_leasing()
    status, stdout, stderr = await run(shared, bot, "direct_key.py")
    assert (status, stderr) == (0, "")
    answer, reported = stdout.splitlines()
    assert "hello" in answer
    assert reported.startswith("reported on lease ")
    assert reported.endswith(" of key Primary")
    (row,) = await shared.accounted(bot, 1)
    assert row["source"] == "lease"


async def test_the_readmes_program(shared: World, bot: str) -> None:
    readme = (EXAMPLES.parents[1] / "README.md").read_text()
    program = readme.partition("```python\n")[2].partition("```")[0]
    address = "amqp://billing-bot:SERVICE_TOKEN@localhost:5672/keyway"
    assert address in program
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-",
        env=child_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        stdout, stderr = await process.communicate(program.replace(address, shared.url_of(bot)).encode())
    assert (process.returncode, stderr) == (0, b"")
    assert "hello" in stdout.decode()
    assert "Primary" in stdout.decode()

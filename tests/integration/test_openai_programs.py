"""Whole programs on the OpenAI SDK, in processes of their own."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.harness import READY_S, World

#: What asyncio's debug mode says of a busy machine, and of no program.
SLOW_CALLBACK = re.compile(r"Executing <.*> took \d+\.\d+ seconds")
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sdk_drop_in.py"
ASYNC = """
import asyncio, os
from openai import AsyncOpenAI
from contracts.openai_transport import keyway_http_client

client = AsyncOpenAI(api_key="-", http_client=keyway_http_client(os.environ["KEYWAY_URL"]))

async def main():
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    print((await client.chat.completions.create(**asked)).choices[0].message.content)
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        break

asyncio.run(main())
asyncio.run(main())
"""
SYNC = """
import os
from openai import OpenAI
from contracts.openai_transport import sync_keyway_http_client

client = OpenAI(api_key="-", http_client=sync_keyway_http_client(os.environ["KEYWAY_URL"]))
asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
for _ in range(2):
    print(client.chat.completions.create(**asked).choices[0].message.content)
    for chunk in client.chat.completions.create(**asked, stream=True):
        break
"""


async def run(world: World, bot: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**world.environment, "KEYWAY_URL": world.url_of(bot)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(READY_S):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, stdout.decode(), stderr.decode()


@pytest.fixture
async def bot(shared: World) -> str:
    name = await shared.add_automation()
    await shared.add_key(name, "Primary")
    return name


async def test_the_example_of_the_sdk_runs_as_it_stands(shared: World, bot: str) -> None:
    status, said, complaints = await run(shared, bot, str(EXAMPLE))
    assert (status, complaints) == (0, "")
    first, second, third = said.splitlines()
    assert first == "Hello! This answer is simulated. You wrote: hello"
    assert second == "Hello! This answer is simulated. You wrote: Tell me about queues."
    assert third == "sender='sender' amount=1.0"
    rows = await shared.accounted(bot, 3)
    assert [row["user_id"] for row in rows if row["request_id"] == "letter-2291"] == ["u-42"]


@pytest.mark.parametrize("program", [ASYNC, SYNC], ids=["async", "sync"])
async def test_a_program_that_closes_nothing_ends_quietly_and_may_run_one_loop_after_another(
    program: str, shared: World, bot: str
) -> None:
    status, said, complaints = await run(shared, bot, "-X", "dev", "-c", program)
    assert status == 0, complaints
    assert [line for line in complaints.splitlines() if not SLOW_CALLBACK.fullmatch(line)] == []
    assert said == "Hello! This answer is simulated. You wrote: hello\n" * 2

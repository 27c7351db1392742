"""The simulator as a process of its own."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import orjson
import pytest

ROOT = Path(__file__).parents[4]
SECRET = "sk-very-secret"
Spawn = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    async with AsyncExitStack() as stack:

        async def start(*arguments: object) -> asyncio.subprocess.Process:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "infra.local.simulator",
                *map(str, arguments),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )

            async def end() -> None:
                if process.returncode is None:
                    process.kill()
                    await process.communicate()

            stack.push_async_callback(end)
            return process

        yield start


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_and_ends_cleanly_with_its_journal_whole(
    spawn: Spawn, tmp_path: Path, ending: signal.Signals
) -> None:
    script, journal, port_file = (tmp_path / name for name in ("script.json", "journal.jsonl", "port"))
    script.write_bytes(orjson.dumps({"keys": [{"name": "primary", "api_key": SECRET, "hang_rate": 1}]}))
    process = await spawn("--port", 0, "--script", script, "--journal", journal, "--port-file", port_file)
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    url = line.removeprefix("simulator listening on ").strip()
    assert url == f"http://127.0.0.1:{port_file.read_text()}/v1"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as session:
        assert (await session.post(f"{url}/nowhere")).status == 404
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
        hanging = asyncio.create_task(session.post(f"{url}/chat/completions", json=body))
        while True:
            async with session.get(f"{url.removesuffix('/v1')}/healthz") as health:
                if (await health.json())["in_flight"]:
                    break
        process.send_signal(ending)
        with pytest.raises(aiohttp.ClientError):
            await hanging
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")
    outcomes = [orjson.loads(line)["outcome"] for line in journal.read_bytes().splitlines()]
    assert outcomes == ["bad_request", "hang"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}}", "Invalid JSON"),
        ('{"keys": [{"name": "a", "api_key": "sk-very-secret", "error_rate": 5}]}', "keys.0.error_rate"),
        (None, "No such file"),
    ],
)
async def test_a_wrong_script_stops_the_start_with_one_line(
    spawn: Spawn, tmp_path: Path, content: str | None, reason: str
) -> None:
    script = tmp_path / "script.json"
    if content is not None:
        script.write_text(content)
    process = await spawn("--port", 0, "--script", script)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.count(b"\n") == 1
    assert reason in err.decode()
    assert SECRET not in err.decode()

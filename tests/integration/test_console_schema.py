"""The OpenAPI document tells the truth: no answer that it does not declare, and none with a status of 5xx."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.console import Console, open_console
from tests.harness import World

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)
#: What may take the caller's own rights away; it comes last.
OWN_RIGHTS = "^/api/(operators|tokens|session)"
#: How long it may take, on a machine that is busy with something else, in seconds.
CALLING_S = 900


@pytest.mark.timeout(2 * CALLING_S)
async def test_no_answer_is_undeclared_or_a_servers_error(world: World, tmp_path: Path) -> None:
    await world.add_key(await world.add_automation(), "Primary")
    async with open_console(world) as console:
        document = (await console.admin.call("GET", "/api/openapi.json")).json
        (tmp_path / "openapi.json").write_text(json.dumps(document))
        try:
            said = await run_schemathesis(console, tmp_path, "--exclude-path-regex", OWN_RIGHTS)
            assert (await console.admin.call("GET", "/api/session")).status == 200, said
            await run_schemathesis(console, tmp_path, "--include-path-regex", OWN_RIGHTS)
        finally:
            await remove_users(world)
        assert not [event for event in world.services[-1].events() if "exception" in event]


async def run_schemathesis(console: Console, folder: Path, *which: str) -> str:
    """Call the console in all ways that the document allows, and some more; what it said of it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", console.url,
        "--header", f"Authorization: {console.admin.headers['Authorization']}",
        "--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "4",
        "--generation-deterministic", "--no-shrink", "--no-color", "--continue-on-failure", *which,
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(CALLING_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-6000:]
    return output.decode()


async def remove_users(world: World) -> None:
    """Users of RabbitMQ are in no vhost: those of automations that were added meanwhile go by hand."""
    made = [found["_id"] async for found in world.mongo.automations.find({}, {"_id": 1})]
    for automation in set(made) - set(world.tokens):
        for user in (automation, f"{automation}.next"):
            await world.admin.call("DELETE", f"users/{user}", may_be_missing=True)

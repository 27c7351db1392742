"""The OpenAPI document tells the truth: no answer that it does not declare, and none with a status of 5xx."""

import asyncio
import json
import sys
from pathlib import Path

from tests.console import open_console
from tests.harness import World

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)


async def test_no_answer_is_undeclared_or_a_servers_error(world: World, tmp_path: Path) -> None:
    await world.add_key(await world.add_automation(), "Primary")
    async with open_console(world) as console:
        document = (await console.admin.call("GET", "/api/openapi.json")).json
        schema = tmp_path / "openapi.json"
        schema.write_text(json.dumps(document))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "schemathesis.cli", "run", str(schema), "--url", console.url,
            "--header", f"Authorization: {console.admin.headers['Authorization']}",
            "--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "12",
            "--generation-deterministic", "--no-shrink", "--no-color",
            "--continue-on-failure",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(240):
            output, _ = await process.communicate()
        made = [found["_id"] async for found in world.mongo.automations.find({}, {"_id": 1})]
        for automation in set(made) - set(world.tokens):
            await world.admin.call("DELETE", f"users/{automation}")
            await world.admin.call("DELETE", f"users/{automation}.next", may_be_missing=True)
        assert process.returncode == 0, output.decode()[-6000:]
        assert "console_ready" in world.services[-1].log.read_text()
        assert not [event for event in world.services[-1].events() if "exception" in event]

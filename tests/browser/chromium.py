"""The browser: the machine's own Chromium, installed where we may, driven by Playwright.

Debian's `chromium-headless-shell` is the same engine without a window, which costs a quarter less.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from playwright.async_api import Browser, Playwright
from rich.console import Console

from infra.errors import StackError
from infra.local.packages import Missing, install

LOCK = Path(tempfile.gettempdir()) / f"keyway-tests-chromium-{os.getuid()}.lock"
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = Missing(
    "chromium-headless-shell",
    "the browser tests need it",
    "run the other tests: pytest --ignore tests/browser",
)
#: Nothing goes out by itself, and root may run it.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium_program() -> str:
    """Where it is; without one, and without the right to install it, the tests are skipped, but not in CI."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one of them installs it
        if (found := _find()) is not None:
            return found
        try:
            install(CHROMIUM, Console(stderr=True))
        except StackError as error:
            if os.geteuid() == 0 or os.environ.get("CI"):
                raise
            pytest.skip(str(error))
        found = _find()
    assert found is not None, "chromium is installed, and not found"
    return found


async def launch(playwright: Playwright) -> Browser:
    program = await asyncio.to_thread(chromium_program)
    return await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)


def _find() -> str | None:
    return next((path for program in PROGRAMS if (path := shutil.which(program)) is not None), None)

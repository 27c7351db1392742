"""How fast the console's pages open in a browser with many automations, many keys and a month of books.

    python -m tests.bench.console_pages [--automations 1000] [--keys 3000] [--rows 1000000]

It prints, for each page, how long it takes from the address to the first row or figure, and then to the
answer of what one does on it. It uses the services that `worker_cpu` uses.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from playwright.async_api import Page, async_playwright

from infra.local.stack import backing_services
from infra.vault import Vault
from tests.bench.console import declare_lanes
from tests.bench.console_books import seed
from tests.browser.chromium import launch
from tests.browser.tab import Tab
from tests.console import ADMIN, open_console
from tests.harness import World, new_world

#: What the issue asks for, in milliseconds.
GOAL_MS = 2000
ROW = "main tbody tr"


async def search(page: Page) -> None:
    """Search for one automation of a thousand."""
    await page.locator(".kw-search input").first.fill("automation-0777")
    await page.wait_for_function(
        "[...document.querySelector('main tbody').rows].every(row => row.innerText.includes('0777'))"
    )


async def turn(page: Page) -> None:
    """Go to the next page."""
    before = await page.locator(ROW).first.inner_text()
    await page.get_by_label("Next page").first.click()
    await page.wait_for_function(f"document.querySelector('{ROW}').innerText !== {before!r}")


async def by_user(page: Page) -> None:
    """Tell usage apart by user."""
    await page.get_by_role("button", name="User").click()
    await page.wait_for_function(f"document.querySelector('{ROW}').innerText.includes('user-')")


async def nothing(_: Page) -> None:
    """Only look."""


#: A page, what is there when it is ready, and what one does on it.
PAGES: dict[str, tuple[str, Callable[[Page], Awaitable[None]]]] = {
    "": (".kw-tile-value", nothing),
    "keys": (ROW, search),
    "keys?": (ROW, turn),
    "automations": (ROW, search),
    "automations?": (ROW, turn),
    "queues": (ROW, search),
    "requests": (ROW, nothing),
    "usage": (ROW, by_user),
    "dead-letters": (".kw-empty-title", nothing),
    "operators": (ROW, nothing),
    "audit": (ROW, nothing),
}


async def measure(
    tab: Tab, path: str, ready: str, act: Callable[[Page], Awaitable[None]]
) -> tuple[float, float]:
    """Milliseconds until the page is there and listens, and until it has answered."""
    began = time.perf_counter()
    await tab.open(path)
    await tab.page.locator(ready).first.wait_for(state="attached")
    opened = time.perf_counter()
    await act(tab.page)
    return (opened - began) * 1000, (time.perf_counter() - opened) * 1000


async def run(world: World, *, automations: int, keys: int, rows: int) -> None:
    vault = Vault(world.settings.master_keys)
    await seed(world.mongo, vault, automations=automations, keys=keys, rows=rows)
    await declare_lanes(world, automations)
    async with open_console(world) as console, async_playwright() as playwright:
        browser = await launch(playwright)
        tab = Tab(await browser.new_page(), console.url)
        await tab.sign_in(ADMIN)
        say(f"{'page':<16}{'opens':>10}{'answers':>10}")
        for path, (ready, act) in PAGES.items():
            opens, answers = await measure(tab, path, ready, act)
            late = "  over the goal" if max(opens, answers) > GOAL_MS else ""
            say(f"{path or 'overview':<16}{opens:>7.0f} ms{answers:>7.0f} ms{late}")
        await browser.close()


async def main(arguments: argparse.Namespace, folder: Path) -> None:
    async with AsyncExitStack() as stack:
        backing = await stack.enter_async_context(backing_services(folder / "backing"))
        world = await stack.enter_async_context(new_world(backing.environment, folder))
        await run(world, automations=arguments.automations, keys=arguments.keys, rows=arguments.rows)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--automations", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=3000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    with tempfile.TemporaryDirectory(prefix="keyway-bench-") as name:
        asyncio.run(main(parser.parse_args(), Path(name)))

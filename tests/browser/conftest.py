"""One browser for all tests of a process; each operator of a test has a context of their own in it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, TypeAlias

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.browser.chromium import launch
from tests.browser.tab import PATIENCE_MS, Tab
from tests.console import Console

#: Of a page, in pixels.
WIDTH, HEIGHT = 1280, 844
#: Contexts in which nobody is signed in. A new one loads and compiles all scripts, which takes seconds.
Contexts: TypeAlias = list[BrowserContext]


class SignIn(Protocol):
    """Signs an operator in, in a browser of their own."""

    async def __call__(self, username: str, *, width: int = WIDTH, zone: str | None = None) -> Tab: ...


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        opened = await launch(playwright)
        yield opened
        await opened.close()


@pytest.fixture(scope="session")
def contexts() -> Contexts:
    """What tests before have left."""
    return []


@pytest.fixture
async def sign_in(browser: Browser, console: Console, contexts: Contexts) -> AsyncIterator[SignIn]:
    async with AsyncExitStack() as stack:

        async def signed_in(username: str, *, width: int = WIDTH, zone: str | None = None) -> Tab:
            tab = await stack.enter_async_context(_tab(browser, console, contexts, width, zone))
            await tab.sign_in(username)
            return tab

        yield signed_in


@pytest.fixture
async def new_tab(browser: Browser, console: Console, contexts: Contexts) -> AsyncIterator[Tab]:
    """A browser in which nobody is signed in."""
    async with _tab(browser, console, contexts) as tab:
        yield tab


@asynccontextmanager
async def _tab(
    browser: Browser, console: Console, contexts: Contexts, width: int = WIDTH, zone: str | None = None
) -> AsyncIterator[Tab]:
    context = contexts.pop() if contexts and zone is None else await browser.new_context(timezone_id=zone)
    page = await context.new_page()
    await page.set_viewport_size({"width": width, "height": HEIGHT})
    page.set_default_timeout(PATIENCE_MS)
    tab = Tab(page, console.url)
    yield tab
    await _forget(context, page, console.url)
    if zone is None:
        contexts.append(context)
    tab.assert_calm()


async def _forget(context: BrowserContext, page: Page, url: str) -> None:
    """Close a page, and leave nothing of who used it but the scripts."""
    browser = await context.new_cdp_session(page)
    await browser.send("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "cookies,local_storage"})
    await page.close()

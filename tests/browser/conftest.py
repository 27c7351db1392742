"""One browser for all tests of a process; each operator of a test has a context of their own in it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import pytest
from playwright.async_api import Browser, async_playwright

from tests.browser.chromium import launch
from tests.browser.tab import Tab
from tests.console import Console


class SignIn(Protocol):
    """Signs an operator in, in a browser of their own."""

    async def __call__(self, username: str, *, width: int = 1280, zone: str | None = None) -> Tab: ...


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        opened = await launch(playwright)
        yield opened
        await opened.close()


@asynccontextmanager
async def _tab(browser: Browser, console: Console, width: int, zone: str | None = None) -> AsyncIterator[Tab]:
    context = await browser.new_context(viewport={"width": width, "height": 844}, timezone_id=zone)
    page = await context.new_page()
    page.set_default_timeout(30_000)
    tab = Tab(page, console.url)
    yield tab
    await context.close()
    tab.assert_calm()


@pytest.fixture
async def new_tab(browser: Browser, console: Console) -> AsyncIterator[Tab]:
    """A browser in which nobody is signed in."""
    async with _tab(browser, console, 1280) as tab:
        yield tab


@pytest.fixture
async def sign_in(browser: Browser, console: Console) -> AsyncIterator[SignIn]:
    async with AsyncExitStack() as stack:

        async def signed_in(username: str, *, width: int = 1280, zone: str | None = None) -> Tab:
            tab = await stack.enter_async_context(_tab(browser, console, width, zone))
            await tab.sign_in(username)
            return tab

        yield signed_in

"""A browser's tab on the console, which notes what a page must not do."""

from urllib.parse import urlsplit

from playwright.async_api import ConsoleMessage, Locator, Page, Request, expect

from tests.console import PASSWORD

#: How long a page may take to show what it should, in milliseconds: a busy machine is slow.
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


class Tab:
    """A page of the console, and what an operator does with it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self._host = urlsplit(url).netloc
        self.other_hosts: list[str] = []
        self.errors: list[str] = []
        page.on("request", self._note_request)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"} and parts.netloc != self._host:
            self.other_hosts.append(request.url)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def assert_calm(self) -> None:
        """No page has asked another host for anything, and no script has failed."""
        assert self.other_hosts == []
        assert self.errors == []

    async def sign_in(self, username: str, password: str = PASSWORD) -> None:
        await self.page.goto(f"{self.url}/console/sign-in")
        await self.page.fill("[name=username]", username)
        await self.page.fill("[name=password]", password)
        await self.page.click("button")
        await self.page.wait_for_url("**/console/")

    async def open(self, path: str) -> None:
        """Open a page, and wait until it listens."""
        await self.page.goto(f"{self.url}/console/{path}")
        await self.page.wait_for_function("window.did_handshake")

    def row(self, text: str) -> Locator:
        """The row of a table that holds a text."""
        return self.page.locator("tbody tr", has_text=text)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def dialog(self) -> Locator:
        """The dialog that was opened last."""
        return self.page.locator(".q-dialog").last

    async def fill(self, label: str, value: str) -> None:
        """Fill in a field of the open dialog."""
        await self.dialog().get_by_label(label, exact=True).fill(value)

    async def press(self, name: str) -> None:
        """Press a button of the open dialog."""
        await self.dialog().get_by_role("button", name=name, exact=True).click()

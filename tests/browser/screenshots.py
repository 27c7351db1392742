"""Screenshots of the console's pages for docs/console.md, of a Keyway with a past and with traffic.

    python -m tests.browser.screenshots [--folder docs/screenshots]

It uses the services that the environment names, or starts its own, as tests do. `make screenshots` runs it.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, FilePayload, Page, async_playwright

from infra.local.stack import backing_services
from tests.browser.chromium import launch
from tests.browser.seeded_stack import PASSWORD, seed, traffic, trouble
from tests.browser.tab import Tab
from tests.harness import World, new_world

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
#: How long there is traffic before the first of them, in seconds: as long as the overview looks back.
WARM_UP_S = 65.0
#: How long a page has to settle, in milliseconds.
SETTLE_MS = 1500
DESKTOP, PHONE = (1280, 800), (390, 844)


@asynccontextmanager
async def tab(browser: Browser, url: str, size: tuple[int, int], *, dark: bool = False) -> AsyncIterator[Tab]:
    width, height = size
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        locale="en-GB",
    )
    yield Tab(await context.new_page(), url)
    await context.close()


async def shoot(page: Page, folder: Path, name: str) -> None:
    await page.wait_for_timeout(SETTLE_MS)
    await page.mouse.move(0, 0)
    path = folder / f"{name}.png"
    await page.screenshot(path=path, animations="disabled")
    sys.stderr.write(f"{path.name}: {path.stat().st_size // 1000} kB\n")


async def shoot_light(ann: Tab, folder: Path) -> None:
    """Every page, and what opens on some of them."""
    page = ann.page
    await ann.open("")
    await shoot(page, folder, "overview")
    await ann.open("keys")
    await shoot(page, folder, "keys")
    await page.get_by_role("button", name="Old account").click()
    await shoot(page, folder, "key")
    await ann.open("keys")
    await ann.button("Import CSV").click()
    lines = ["automation,alias,api_key,rpm", *(f"review-sorter,Spare {n},sk-{n:020},60" for n in range(2, 5))]
    lines.append("reviews-sorter,Typo,sk-00000000000000000009,60")
    file = "\n".join(lines).encode()
    upload: FilePayload = {"name": "keys.csv", "mimeType": "text/csv", "buffer": file}
    await page.set_input_files("input[type=file]", files=[upload])
    await shoot(page, folder, "import")
    await ann.open("automations")
    await shoot(page, folder, "automations")
    await page.get_by_role("button", name="support-replies").click()
    await shoot(page, folder, "automation")
    await ann.open("requests")
    await shoot(page, folder, "requests")
    await ann.open("requests?automation=campaign-mails")
    await page.get_by_label("Outcome of a call").click()
    await page.get_by_role("option", name="server error").click()
    await page.locator("tbody .kw-link").first.click()
    await shoot(page, folder, "request")
    await ann.open("queues")
    await shoot(page, folder, "queues")
    await ann.open("dead-letters")
    await page.locator("tbody .kw-link").first.wait_for()
    await shoot(page, folder, "dead-letters")
    await ann.open("alerts")
    await shoot(page, folder, "alerts")
    await ann.open("usage")
    await shoot(page, folder, "usage")
    await ann.open("operators")
    await shoot(page, folder, "operators")
    await ann.open("audit")
    await shoot(page, folder, "audit")


async def shoot_all(browser: Browser, url: str, folder: Path) -> None:
    async with tab(browser, url, DESKTOP) as ann:
        await ann.page.goto(f"{url}/console/sign-in")
        await shoot(ann.page, folder, "sign-in")
        await ann.sign_in("ann", PASSWORD.get_secret_value())
        await shoot_light(ann, folder)
    async with tab(browser, url, DESKTOP, dark=True) as ann:
        await ann.sign_in("ann", PASSWORD.get_secret_value())
        for path, name in (("", "overview"), ("keys", "keys"), ("usage", "usage")):
            await ann.open(path)
            await shoot(ann.page, folder, f"{name}-dark")
    async with tab(browser, url, PHONE) as ann:
        await ann.sign_in("ann", PASSWORD.get_secret_value())
        for path, name in (("", "overview"), ("keys", "keys"), ("requests", "requests")):
            await ann.open(path)
            await shoot(ann.page, folder, f"{name}-phone")


async def run(world: World, folder: Path) -> None:
    await seed(world)
    await world.start_accounting()
    await world.start_worker()
    console = await world.start("console", ready="console_ready", KEYWAY_CONSOLE_PORT="0")
    (url,) = [str(event["url"]) for event in console.events() if event["event"] == "console_ready"]
    await trouble(world)
    async with traffic(world), async_playwright() as playwright:
        await asyncio.sleep(WARM_UP_S)
        browser = await launch(playwright)
        await shoot_all(browser, url, folder)
        await browser.close()


async def shoot_everything(folder: Path, own: Path) -> None:
    async with (
        backing_services(own / "backing") as backing,
        new_world(backing.environment, own) as world,
    ):
        await run(world, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they go")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="keyway-screenshots-") as own:
        asyncio.run(shoot_everything(folder, Path(own)))


if __name__ == "__main__":
    main()

"""What pages keep from whom: viewers, operators who are signed out, and text from outside that is markup."""

import re
from contextlib import suppress
from typing import Literal

import pytest
from playwright.async_api import Error, expect

from infra.mongo import Document
from tests.browser.conftest import SignIn
from tests.browser.tab import Tab
from tests.console import ADMIN, CHAT, VIEWER, Console
from tests.harness import ACTOR, eventually
from workers.budgets.registry import BudgetRegistry, Subject
from workers.console.access.operators import Operators, Role

pytestmark = pytest.mark.timeout(900)

PAGES = ("", "keys", "automations", "requests", "queues", "dead-letters", "alerts", "usage")
ADMINS_PAGES = ("operators", "audit")
#: Words of buttons that change something.
CHANGES = (
    *("Add", "Import", "Disable", "Enable", "Check", "Pause", "Resume", "Empty"),
    *(
        "Replay",
        "Drop",
        "Reveal",
        "Remove",
        "Rotate token",
        "Settings",
        "Change limits",
        "Set a budget",
        "Change:",
    ),
)
#: Sends an event of a page's table as its own buttons would.
FORGE = """([name, key]) => {
  for (const [id, element] of Object.entries(mounted_app.elements))
    for (const event of element.events)
      if (event.type === "act")
        window.socket.emit("event", {
          id: Number(id), client_id: window.clientId, listener_id: event.listener_id,
          args: [JSON.stringify({name, key})],
        });
}"""
MARKUP = "<img src=x onerror=window.harmed=1>"


async def a_key(console: Console) -> tuple[str, Document]:
    """An automation with a key."""
    bot = await console.world.add_automation()
    await console.world.add_key(bot, "Primary")
    return bot, await console.world.key(bot, "Primary")


async def test_a_viewer_sees_everything_and_changes_nothing(console: Console, sign_in: SignIn) -> None:
    bot, key = await a_key(console)
    tab = await sign_in(VIEWER)
    for path in PAGES:
        await tab.open(path)
        for name in CHANGES:
            # By case, since automations have random names such as `bot-5add`.
            buttons = tab.page.get_by_role("button", name=re.compile(rf"\b{name}"))
            assert await buttons.count() == 0, (path, name)
    for path in ADMINS_PAGES:
        await tab.page.goto(f"{console.url}/console/{path}")
        await expect(tab.page).to_have_url(f"{console.url}/console/")
    await tab.open(f"keys?text={bot}")
    await expect(tab.row(bot).locator(".kw-chip")).to_have_text("active")
    await tab.page.evaluate(FORGE, ["disable", key["_id"]])
    await expect(tab.page.get_by_text("This needs an admin.")).to_be_visible()
    assert (await console.world.key(bot, "Primary"))["status"] == "active"
    await tab.row(bot).get_by_role("button", name="Primary").click()
    await expect(tab.dialog()).to_contain_text("Its status has never changed.")
    for name in CHANGES:
        assert await tab.dialog().get_by_role("button", name=name).count() == 0, name
    await BudgetRegistry(console.world.mongo, ACTOR).set(Subject(bot), "day", 1)
    await tab.open(f"automations?text={bot}")
    await tab.button(bot).click()
    await expect(tab.dialog()).to_contain_text("stops calls when spent")
    for name in CHANGES:
        assert await tab.dialog().get_by_role("button", name=name).count() == 0, name


async def test_a_page_left_open_does_no_more_than_its_operator_may_now(
    console: Console, sign_in: SignIn
) -> None:
    bot, key = await a_key(console)
    operators, name = Operators(console.world.mongo), f"temp-{bot}"
    await console.add_operator(name, Role.ADMIN)
    tab = await sign_in(name)
    await tab.open(f"keys?text={bot}")
    disable = tab.row(bot).get_by_role("button", name="Disable")
    await expect(disable).to_be_visible()
    await operators.change(name, enabled=False)
    with suppress(Error):  # The page may have left by itself already.
        await tab.page.evaluate(FORGE, ["disable", key["_id"]])
    await tab.page.wait_for_url("**/console/sign-in")
    assert (await console.world.key(bot, "Primary"))["status"] == "active"


async def test_a_page_that_the_console_no_longer_knows_is_loaded_anew(
    console: Console, sign_in: SignIn
) -> None:
    tab = await sign_in(VIEWER)
    await tab.open("keys")
    await tab.page.evaluate("""() => {
      window.isOld = true;
      window.socket.io.opts.query.client_id = "00000000-0000-4000-8000-000000000000";
      window.socket.disconnect().connect();
    }""")
    await tab.page.wait_for_function("!window.isOld && window.did_handshake")
    await expect(tab.page.get_by_role("heading", name="Keys", exact=True)).to_be_visible()
    tab.errors.clear()  # the browser itself notes the refusals


async def test_an_admin_disables_and_enables_a_key(console: Console, sign_in: SignIn) -> None:
    bot, _ = await a_key(console)
    tab = await sign_in(ADMIN)
    await tab.open(f"keys?text={bot}")
    await tab.row(bot).get_by_role("button", name="Disable").click()
    await expect(tab.row(bot).locator(".kw-chip")).to_have_text("disabled")
    await tab.row(bot).get_by_role("button", name="Enable").click()
    await expect(tab.row(bot).locator(".kw-chip")).to_have_text("active")


async def test_text_from_outside_is_shown_as_text(console: Console, sign_in: SignIn) -> None:
    world = console.world
    bot = await world.add_automation()
    await world.add_key(bot, MARKUP)
    async with world.client(bot) as keyway:
        await keyway.generate("/chat/completions", CHAT, user=MARKUP)
    await world.accounted(bot, 1)
    await world.keys.set_status(bot, MARKUP, "disabled", MARKUP)
    for subject in (Subject(bot, key=MARKUP), Subject(bot, user=MARKUP)):
        await BudgetRegistry(world.mongo, ACTOR).set(subject, "day", 1)
    tab = await sign_in(ADMIN)

    async def assert_harmless(where: str) -> None:
        assert await tab.page.evaluate("window.harmed") is None, where
        assert await tab.page.locator("img[src=x]").count() == 0, where

    await tab.open(f"keys?text={bot}")
    await expect(tab.row(bot)).to_contain_text(MARKUP)
    await tab.row(bot).get_by_role("button", name=MARKUP).click()
    await expect(tab.dialog()).to_contain_text(f"{MARKUP} · by test")
    await assert_harmless("keys")
    await tab.open(f"automations?text={bot}")
    await tab.button(bot).click()
    for text in (f"Daily · key {MARKUP}", f"Daily · user {MARKUP}"):
        await expect(tab.dialog()).to_contain_text(text)
    await tab.press("Set a budget")
    await tab.dialog().get_by_label("Whose").click()
    await tab.page.get_by_role("option", name="One of its keys").click()
    await tab.dialog().get_by_label("Key").click()
    await expect(tab.page.get_by_role("option", name=MARKUP)).to_be_visible()
    await assert_harmless("budgets")
    await tab.open(f"requests?automation={bot}")
    await expect(tab.row(bot)).to_contain_text(MARKUP)
    await tab.row(bot).get_by_role("button").click()
    await expect(tab.dialog().locator("canvas")).to_be_visible()
    await assert_harmless("requests")
    await tab.open(f"usage?automation={bot}")
    await tab.button("User").click()
    await expect(tab.row(MARKUP)).to_be_visible()
    await assert_harmless("usage")
    await tab.open(f"keys?text={MARKUP}")
    await expect(tab.page.get_by_label("Search keys")).to_have_value(MARKUP)
    await assert_harmless("search")


async def test_every_page_fits_a_phone(console: Console, sign_in: SignIn) -> None:
    await a_key(console)
    tab = await sign_in(ADMIN, width=390)
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for path in (*PAGES, *ADMINS_PAGES):
        await tab.open(path)
        for scheme in schemes:
            await tab.page.emulate_media(color_scheme=scheme)
            width = await tab.page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, (path, scheme)
    await tab.page.get_by_label("Menu").click()
    await tab.page.get_by_role("link", name="Queues").click()
    await expect(tab.page.get_by_role("heading", name="Queues", exact=True)).to_be_visible()


async def test_the_keyboard_is_enough(console: Console, sign_in: SignIn) -> None:
    bot, _ = await a_key(console)
    tab = await sign_in(ADMIN)
    await tab.open("keys")
    await tab.page.keyboard.press("Tab")
    await expect(tab.page.get_by_text("Skip to the content")).to_be_focused()
    await tab.page.keyboard.press("/")
    await expect(tab.page.get_by_label("Search keys")).to_be_focused()
    await tab.page.keyboard.type(bot)
    rows = tab.page.get_by_label("Keys", exact=True).locator("tbody tr")
    await expect(rows).to_have_count(1)
    await tab.row(bot).get_by_role("button", name="Primary").focus()
    await tab.page.keyboard.press("Enter")
    await expect(tab.dialog()).to_contain_text("History")
    await tab.page.keyboard.press("Escape")
    await expect(tab.page.locator(".kw-drawer")).to_have_count(0)
    await tab.page.get_by_role("columnheader", name="Status").focus()
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.locator("th[aria-sort=ascending]")).to_contain_text("Status")


async def test_what_is_chosen_of_light_and_dark_stays(console: Console, sign_in: SignIn) -> None:
    tab = await sign_in(VIEWER)
    await tab.open("")
    for _ in range(2):
        await tab.page.get_by_label("Colours:").click()
    await expect(tab.page.locator("body.body--dark")).to_have_count(1)
    await eventually(lambda: _is_dark_cookie(tab), "the choice is kept")
    await tab.open("keys")
    await expect(tab.page.locator("body.body--dark")).to_have_count(1)


async def _is_dark_cookie(tab: Tab) -> bool:
    cookies = await tab.page.context.cookies()
    return any(cookie["name"] == "keyway-theme" and cookie["value"] == "dark" for cookie in cookies)

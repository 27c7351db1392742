"""What operators do with the console's pages, in a real browser on the real stack."""

import asyncio
import secrets
from urllib.parse import urlsplit

import pytest
from playwright.async_api import FilePayload, expect

from contracts import GenerationError, Keyway
from tests.browser.conftest import SignIn
from tests.browser.tab import Tab
from tests.collector import Collector
from tests.console import ADMIN, CHAT, Console
from tests.harness import eventually
from tests.integration.test_dead_letters import looking
from workers.console.access.operators import Operators, Role

pytestmark = pytest.mark.timeout(900)  # the first of them may have to install the browser

NEW_PASSWORD = "four words of one's own"
MANY = 120


async def test_an_operator_signs_in_once_with_the_one_time_password_and_chooses_another(
    console: Console, new_tab: Tab
) -> None:
    username = f"olga-{secrets.token_hex(3)}"
    one_time = await Operators(console.world.mongo).add(username, Role.VIEWER)
    page = new_tab.page
    await page.goto(console.url)
    await expect(page).to_have_url(f"{console.url}/console/sign-in?next=/console/")
    for password in ("wrong", one_time.get_secret_value()):
        await page.fill("[name=username]", username)
        await page.fill("[name=password]", password)
        await page.click("button")
        if password == "wrong":
            await expect(page.get_by_role("alert")).to_contain_text("username or the password is wrong")
            new_tab.errors.clear()  # the browser itself notes the 401
    await expect(page).to_have_url(f"{console.url}/console/password")
    await page.goto(f"{console.url}/console/keys")
    await expect(page).to_have_url(f"{console.url}/console/password")
    await page.fill("[name=current]", one_time.get_secret_value())
    await page.fill("[name=new]", NEW_PASSWORD)
    await page.fill("[name=again]", NEW_PASSWORD)
    await page.click("button")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    (cookie,) = await page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    await page.get_by_label("Sign out").click()
    await expect(page).to_have_url(f"{console.url}/console/sign-in")
    await page.goto(f"{console.url}/console/keys")
    await expect(page).to_have_url(f"{console.url}/console/sign-in?next=/console/keys")


async def test_an_automation_and_its_key_are_added_and_its_request_arrives_live(
    console: Console, sign_in: SignIn
) -> None:
    world, bot = console.world, f"bot-{secrets.token_hex(4)}"
    api_key = f"sk-test-{secrets.token_hex(16)}"
    await world.simulator.script(f"{bot}-Primary", api_key=api_key)
    tab = await sign_in(ADMIN)
    await tab.open("automations")
    await tab.button("Add automation").click()
    await tab.fill("Name", bot)
    await tab.press("Add automation")
    secret = tab.page.locator(".kw-secret")
    await expect(secret).to_be_visible()
    token = (await secret.text_content() or "").strip()
    await tab.press("I have kept it")
    await tab.open(f"keys?automation={bot}")
    await tab.button("Add key").click()
    await tab.fill("Name", "Primary")
    await tab.fill("API key", api_key)
    await tab.fill("Requests per minute", "60")
    await tab.fill("The provider's address", world.simulator.base_url)
    await tab.press("Add key")
    await expect(tab.row(bot).locator(".kw-chip")).to_have_text("active")
    assert api_key not in await tab.page.content()
    await tab.open(f"requests?automation={bot}")
    await expect(tab.page.get_by_text("No request matches")).to_be_visible()
    where = urlsplit(world.settings.amqp_url.get_secret_value())
    async with Keyway(f"amqp://{bot}:{token}@{where.hostname}:{where.port}{where.path}") as keyway:
        result = await keyway.generate("/chat/completions", CHAT, user="u-42")
    arrived = tab.row(result.request_id)
    await expect(arrived.locator(".kw-chip")).to_have_text("succeeded")
    await expect(arrived).to_contain_text("u-42")
    await arrived.get_by_role("button").click()
    await expect(tab.dialog().get_by_text("Where its time went")).to_be_visible()
    await expect(tab.dialog().locator("canvas")).to_be_visible()
    await world.admin.call("DELETE", f"users/{bot}")


async def test_a_key_is_seen_to_stop_when_the_provider_refuses_it(console: Console, sign_in: SignIn) -> None:
    world = console.world
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    tab = await sign_in(ADMIN)
    await tab.open(f"keys?text={bot}")
    await expect(tab.row(bot).locator(".kw-chip")).to_have_text("active")
    await world.script(bot, "Primary", invalid=True)
    async with world.client(bot) as keyway:
        with pytest.raises(GenerationError) as refused:
            await keyway.generate("/chat/completions", CHAT)
    assert refused.value.code == "no_usable_key"
    await expect(tab.row(bot).locator(".kw-chip")).to_have_text("error")
    await expect(tab.row(bot)).to_contain_text("the provider refuses the key: 401 invalid_api_key")
    await tab.row(bot).get_by_role("button", name="Check").click()
    await expect(tab.page.get_by_text("the provider answers 401 invalid_api_key")).to_be_visible()
    await tab.row(bot).get_by_role("button", name="Primary").click()
    await expect(tab.dialog().locator(".kw-history-entry .kw-chip")).to_have_text("error")


async def test_a_dead_letter_is_looked_at_and_replayed(console: Console, sign_in: SignIn) -> None:
    world = console.world
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    request_id = f"order-{secrets.token_hex(4)}"
    async with Collector(world, bot) as collector:
        await collector.ask(request_id, b'{"path": "/nowhere", "body": {"secret": "pink elephants"}}')
        await eventually(lambda: _is_dead(console, request_id), "the request is dead")
    tab = await sign_in(ADMIN)
    letter, reading = tab.row(request_id), tab.page.locator(".q-linear-progress")
    async with looking(world):
        await tab.open("dead-letters")
        await expect(reading).to_be_hidden()
    async with looking(world):
        await tab.page.get_by_label("Automation", exact=True).fill(bot)
        await tab.page.keyboard.press("Enter")
        await expect(letter).to_contain_text("invalid_request: path")
        await letter.get_by_role("button", name=request_id).click()
        await expect(tab.dialog()).to_contain_text("masked")
        await expect(reading).to_be_hidden()
    async with looking(world):
        await tab.press("Reveal")
        await expect(tab.dialog()).to_contain_text("pink elephants")
    (revealed,) = await _audited(console, "dead_letter.revealed", request_id)
    assert revealed["actor"] == f"console:{ADMIN}"
    told = tab.page.get_by_text("1 letter replayed.")  # For a few seconds only.
    await asyncio.gather(expect(told).to_be_visible(), tab.press("Replay"))

    async def came_again() -> bool:
        return await world.mongo.audit.count_documents({"action": "dead_letters.replayed"}) > 0

    await eventually(came_again, "the replay is in the audit log")


async def _is_dead(console: Console, request_id: str) -> bool:
    async with looking(console.world):
        found = await console.admin.get("/api/dead-letters", request_id=request_id)
    return bool(found)


async def _audited(console: Console, action: str, request_id: str) -> list[dict[str, object]]:
    found = console.world.mongo.audit.find({"action": action, "after.request_id": request_id})
    return [entry async for entry in found]


async def test_more_keys_than_a_page_shows_are_imported_from_csv(console: Console, sign_in: SignIn) -> None:
    world = console.world
    bot = await world.add_automation()
    lines = [f"{bot},Key {number},sk-{secrets.token_hex(12)},60" for number in range(MANY)]
    lines[7] = f"nobody-{bot},Key 7,sk-{secrets.token_hex(12)},60"
    file = "\n".join(["automation,alias,api_key,rpm", *lines]).encode()
    tab = await sign_in(ADMIN)
    await tab.open(f"keys?text={bot}")
    await tab.button("Import CSV").click()
    upload: FilePayload = {"name": "keys.csv", "mimeType": "text/csv", "buffer": file}
    await tab.page.set_input_files("input[type=file]", files=[upload])
    await expect(tab.dialog()).to_contain_text(f"{MANY - 1} of {MANY} lines can be imported.")
    await expect(tab.row("left out")).to_contain_text(f"no automation nobody-{bot}")
    assert await world.mongo.keys.count_documents({"automation_id": bot}) == 0, "a preview adds nothing"
    await tab.press(f"Import {MANY - 1} keys")
    await expect(tab.dialog().get_by_role("progressbar")).to_be_visible()
    await expect(tab.dialog()).to_contain_text(f"Imported {MANY - 1} of {MANY - 1} keys.", timeout=300_000)
    assert await world.mongo.keys.count_documents({"automation_id": bot}) == MANY - 1
    await tab.press("Close")
    table = tab.page.get_by_label("Keys", exact=True)
    await expect(table).to_contain_text(f"1-25 of {MANY - 1}")
    assert await table.locator("tbody tr").count() == 25, "a page of them is in the browser"

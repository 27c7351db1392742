"""What an admin changes on the pages, in a real browser: lanes, tokens, budgets, operators, dead letters."""

import asyncio
import re
import secrets
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import expect
from pydantic import SecretStr

from contracts import Keyway
from tests.browser.conftest import SignIn
from tests.browser.tab import Tab
from tests.collector import Collector
from tests.console import ADMIN, CHAT, Console
from tests.harness import eventually
from tests.integration.test_dead_letters import looking

pytestmark = pytest.mark.timeout(900)

#: Half an hour off, so that no other zone is taken for it.
ZONE = "Asia/Kolkata"


async def lane_counts(console: Console, bot: str) -> tuple[int, int]:
    """How many requests wait in a lane and how many workers consume it, as RabbitMQ knows at this moment."""
    async with console.world.connection.channel() as channel:
        queue = await channel.declare_queue(f"requests.{bot}", passive=True, robust=False)
        counts = queue.declaration_result
        return counts.message_count or 0, counts.consumer_count or 0


async def test_a_lane_is_paused_emptied_and_resumed(console: Console, sign_in: SignIn) -> None:
    world, bot = console.world, await console.world.add_automation()
    tab = await sign_in(ADMIN)
    await tab.open(f"queues?text={bot}")
    lane = tab.row(bot)
    await lane.get_by_role("button", name="Pause").click()
    await expect(lane.locator(".kw-chip")).to_have_text("paused")

    async def left() -> bool:
        return await lane_counts(console, bot) == (0, 0)

    await eventually(left, "no worker consumes the lane")
    async with Collector(world, bot) as collector:
        for number in range(2):
            await collector.ask(f"r-{number}")

        async def both_wait() -> bool:
            return await lane_counts(console, bot) == (2, 0)

        await eventually(both_wait, "two requests that wait")
        await lane.get_by_role("button", name="Empty").click()
        await tab.fill(bot, "another")
        await tab.press("Throw away")
        await expect(tab.page.get_by_text("repeat the automation's id")).to_be_visible()
        await tab.fill(bot, bot)
        told = tab.page.get_by_text(f"The lane of {bot} is empty.")  # For a few seconds only.
        await asyncio.gather(expect(told).to_be_visible(), tab.press("Throw away"))
        assert await lane_counts(console, bot) == (0, 0)
    await lane.get_by_role("button", name="Resume").click()
    await expect(lane.locator(".kw-chip")).to_have_text("open")
    entries = await console.viewer.get("/api/audit", target=bot)
    assert [entry["action"] for entry in entries] == [
        "automation.changed",
        "lane.purged",
        "automation.changed",
    ]


async def test_an_automations_budgets_and_token_are_changed_on_its_panel_and_its_times_are_local(
    console: Console, sign_in: SignIn
) -> None:
    world, bot = console.world, await console.world.add_automation()
    await world.add_key(bot, "Primary")
    tab = await sign_in(ADMIN, zone=ZONE)
    await tab.open(f"automations?text={bot}")
    await tab.button(bot).click()
    await assert_local(tab)

    await tab.press("Set a budget")
    await tab.fill("Limit", "a lot")
    await tab.press("Set budget")
    await expect(tab.page.get_by_text("is not an amount of US dollars")).to_be_visible()
    await tab.fill("Limit", "12.50")
    await tab.press("Set budget")
    await expect(tab.dialog()).to_contain_text("$0.00 of $12.50 · stops calls when spent")
    await tab.press("Set a budget")
    await tab.dialog().get_by_label("Whose").click()
    await tab.page.get_by_role("option", name="One of its keys").click()
    await tab.fill("Limit", "1")
    await tab.press("Set budget")
    await expect(tab.page.get_by_text("Choose the key.")).to_be_visible()
    await tab.dialog().get_by_label("Key").click()
    await tab.page.get_by_role("option", name="Primary").click()
    await tab.press("Set budget")
    await expect(tab.dialog()).to_contain_text("Daily · key Primary")
    await tab.press("Change: Daily · key Primary")
    await tab.fill("Limit", "2.5")
    await tab.press("Set budget")
    await expect(tab.dialog()).to_contain_text("$0.00 of $2.50 · stops")
    await tab.press("Remove: Daily · key Primary")
    await tab.press("Remove")
    await expect(tab.dialog()).not_to_contain_text("key Primary")
    (own,) = await console.viewer.get("/api/budgets", automation_id=bot)
    assert (own["scope"], own["window"], own["limit_nanousd"]) == ("automation", "day", 12_500_000_000)

    await tab.press("Rotate token")
    await expect(tab.dialog()).to_contain_text(f"Give {bot} a new token?")
    await tab.press("Rotate token")
    secret = tab.page.locator(".kw-secret")
    await expect(secret).to_be_visible()
    token = SecretStr((await secret.text_content() or "").strip())
    await tab.press("I have kept it")
    row = tab.row(bot)
    await expect(row).to_contain_text("its token rotates")
    await expect(row).to_contain_text("0% of $12.50")
    await tab.button(bot).click()
    await tab.press("Finish rotation")
    await tab.press("Refuse the old token")
    await expect(row).not_to_contain_text("its token rotates")
    async with Keyway(world.url_of(bot, token)) as keyway:
        assert (await keyway.generate("/chat/completions", CHAT)).status == "succeeded"


async def assert_local(tab: Tab) -> None:
    """A time is shown as the browser's zone has it, and as UTC on hover."""
    time = tab.dialog().locator("local-time").first
    at = datetime.fromisoformat(await time.get_attribute("at") or "")
    there = at.astimezone(ZoneInfo(ZONE))
    assert there.utcoffset() == timedelta(hours=5, minutes=30)
    await expect(time).to_contain_text(there.strftime("%H:%M"))
    await expect(time).to_have_attribute("title", re.compile(f"^{at:%Y-%m-%d %H:%M:%S} UTC · here .+"))


async def test_an_operator_is_added_promoted_and_disabled_and_a_token_is_made_and_taken_back(
    console: Console, sign_in: SignIn
) -> None:
    name, purpose = f"olga-{secrets.token_hex(3)}", f"reports-{secrets.token_hex(3)}"
    tab = await sign_in(ADMIN)
    await tab.open("operators")
    await tab.button("Add operator").click()
    await tab.fill("Username", name)
    await tab.press("Add operator")
    await expect(tab.page.locator(".kw-secret")).to_be_visible()
    await tab.press("I have kept it")
    operator = tab.row(name)
    await expect(operator.locator("[data-label=Role]")).to_have_text("viewer")
    await operator.get_by_role("button", name="Make admin").click()
    await expect(operator.locator("[data-label=Role]")).to_have_text("admin")
    await operator.get_by_role("button", name="New password").click()
    await tab.press("New password")
    await expect(tab.page.locator(".kw-secret")).to_be_visible()
    await tab.press("I have kept it")
    await operator.get_by_role("button", name="Disable").click()
    await tab.press("Disable")
    await expect(operator.locator(".kw-chip")).to_have_text("disabled")

    await tab.button("New token").click()
    await tab.fill("What it is for", purpose)
    await tab.press("Make token")
    secret = tab.page.locator(".kw-secret")
    await expect(secret).to_be_visible()
    bearer = {"Authorization": f"Bearer {(await secret.text_content() or '').strip()}"}
    await tab.press("I have kept it")
    assert (await console.nobody.call("GET", "/api/keys", headers=bearer)).status == 200
    await tab.row(purpose).get_by_role("button", name="Take back").click()
    await tab.press("Take back")
    await expect(tab.row(purpose)).to_have_count(0)
    assert (await console.nobody.call("GET", "/api/keys", headers=bearer)).status == 401
    done = {entry["action"] for entry in await console.viewer.get("/api/audit", target=name)}
    assert done == {"operator.added", "operator.changed", "operator.password_reset"}


async def test_a_dead_letter_is_dropped_calls_are_drawn_and_taken_as_csv_and_the_reference_comes_from_here(
    console: Console, sign_in: SignIn
) -> None:
    world, bot = console.world, await console.world.add_automation()
    await world.add_key(bot, "Primary")
    request_id = f"order-{secrets.token_hex(4)}"
    async with world.client(bot) as keyway:
        for _ in range(2):
            await keyway.generate("/chat/completions", CHAT)
    async with Collector(world, bot) as collector:
        await collector.ask(request_id, b'{"path": "/nowhere", "body": {}}')

        async def dead() -> bool:
            async with looking(world):
                return bool(await console.admin.get("/api/dead-letters", request_id=request_id))

        await eventually(dead, "the request is dead")
    row, _ = await world.accounted(bot, 2)
    tab = await sign_in(ADMIN)
    reading = tab.page.locator(".q-linear-progress")
    async with looking(world):
        await tab.open("dead-letters")
        await expect(reading).to_be_hidden()
    drop = tab.dialog().get_by_role("button", name="Drop", exact=True)

    async def is_asked() -> bool:
        # The row may just be drawn anew, filtered.
        if not await drop.count():
            await tab.row(request_id).get_by_role("button", name="Drop").click()
            return False
        return True

    async with looking(world):
        await tab.page.get_by_label("Automation", exact=True).fill(bot)
        await tab.page.keyboard.press("Enter")
        await eventually(is_asked, "the question whether to drop it", every_s=1)
        await expect(reading).to_be_hidden()
    told = tab.page.get_by_text("1 letter dropped.")  # For a few seconds only.
    await asyncio.gather(expect(told).to_be_visible(), drop.click())
    assert await console.admin.get("/api/dead-letters", request_id=request_id) == []

    await tab.open(f"keys?text={bot}")
    await expect(tab.row(bot).get_by_role("img", name="2 calls: ").locator("svg path").first).to_be_attached()

    await tab.open(f"usage?automation={bot}")
    async with tab.page.expect_download() as downloading:
        await tab.page.get_by_role("link", name="CSV").click()
    lines = await asyncio.to_thread(_lines, await (await downloading.value).path())
    assert len(lines) == 2
    assert f"{row['day']},{bot},{bot}" in lines[1]

    await tab.page.goto(f"{console.url}/api/docs")
    listing = tab.page.locator("#operations-budgets-list_budgets_api_budgets_get")
    await listing.locator(".opblock-summary-control").click()
    await listing.get_by_role("button", name="Try it out").click()
    await listing.get_by_placeholder("automation_id").fill(bot)
    await listing.get_by_role("button", name="Execute").click()
    await expect(listing.locator(".live-responses-table .response").first).to_contain_text("200")


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()

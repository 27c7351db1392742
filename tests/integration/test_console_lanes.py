"""Automations and their lanes over the HTTP API: add, change, rotate, pause, resume, purge."""

import asyncio
import secrets

from contracts import Keyway
from tests.collector import Collector
from tests.console import CHAT, Console
from tests.harness import eventually


async def consumers(console: Console, bot: str) -> int:
    """How many workers consume a lane, as RabbitMQ knows at this moment."""
    async with console.world.connection.channel() as channel:
        queue = await channel.declare_queue(f"requests.{bot}", passive=True, robust=False)
        return queue.declaration_result.consumer_count or 0


async def test_an_automation_is_added_and_its_token_is_shown_once(console: Console) -> None:
    bot, admin = f"bot-{secrets.token_hex(4)}", console.admin
    made = await admin.do("POST", "/api/automations", {"automation_id": bot, "max_in_flight": 3}, status=201)
    try:
        assert (await admin.call("POST", "/api/automations", {"automation_id": bot})).status == 409
        shown = await console.viewer.call("GET", f"/api/automations/{bot}")
        assert (shown.json["max_in_flight"], shown.json["enabled"]) == (3, True)
        listed = await console.viewer.call("GET", "/api/automations")
        assert made["service_token"] not in shown.text + listed.text
        assert bot in {each["automation_id"] for each in listed.json}
        rotation = await admin.do("POST", f"/api/automations/{bot}/token-rotation", status=201)
        assert (await console.viewer.get(f"/api/automations/{bot}"))["rotation"]["actor"] == "console:ann"
        finish = f"/api/automations/{bot}/token-rotation/finish"
        assert (await admin.do("POST", finish))["closed_connections"] == 0
        assert (await admin.call("POST", finish)).status == 409
        assert rotation["service_token"] != made["service_token"]
        host = console.world.settings.amqp_url.get_secret_value().rpartition("@")[2]
        async with Keyway(f"amqp://{bot}:{rotation['service_token']}@{host}"):
            pass
    finally:
        await console.world.admin.call("DELETE", f"users/{bot}")


async def test_a_paused_lane_waits_and_what_is_in_hand_is_finished(console: Console) -> None:
    bot = await console.world.add_automation()
    await console.world.add_key(bot, "Primary", {"held": True})
    async with console.world.client(bot) as keyway:
        in_hand = asyncio.create_task(keyway.generate("/chat/completions", CHAT))

        async def begun() -> bool:
            return await console.world.mongo.requests.count_documents({"automation_id": bot}) == 1

        await eventually(begun, "the first request is in hand")
        assert (await console.admin.do("POST", f"/api/lanes/{bot}/pause"))["paused"]

        async def is_left_amid_a_request() -> bool:
            events = [event for service in console.world.services for event in service.events()]
            left = ("lane_left", bot, 1)
            has_left = any((e["event"], e.get("automation_id"), e.get("in_hand")) == left for e in events)
            # RabbitMQ counts a consumer that is cancelled as long as it has something in hand.
            return has_left and await consumers(console, bot) == 1

        await eventually(is_left_amid_a_request, "every worker has left the lane, one with it in hand")
        waiting = asyncio.create_task(keyway.generate("/chat/completions", CHAT))
        await console.world.script(bot, "Primary")
        assert (await in_hand).status == "succeeded"

        async def left() -> bool:
            return await consumers(console, bot) == 0

        await eventually(left, "no worker consumes the lane")

        async def seen() -> bool:
            (lane,) = [e for e in await console.viewer.get("/api/lanes") if e["automation_id"] == bot]
            return bool(lane["paused"] and lane["state"]["waiting"] == 1)

        await eventually(seen, "the lane shows what waits")
        assert not waiting.done()
        assert not (await console.admin.do("POST", f"/api/lanes/{bot}/resume"))["paused"]
        assert (await waiting).status == "succeeded"


async def test_the_command_line_pauses_and_resumes_too(console: Console) -> None:
    bot = await console.world.add_automation()
    for command, paused in (("pause", True), ("resume", False)):
        status, _, stderr = await console.world.cli("automations", command, bot)
        assert status == 0, stderr
        assert (await console.viewer.get(f"/api/automations/{bot}"))["paused"] is paused
    status, _, stderr = await console.world.cli("automations", "pause", "nobody-here")
    assert (status, "no automation nobody-here" in stderr) == (1, True)


async def test_a_purge_has_to_be_confirmed_by_the_automations_name(console: Console) -> None:
    bot = await console.world.add_automation()
    await console.admin.do("POST", f"/api/lanes/{bot}/pause")

    async def left() -> bool:
        return await consumers(console, bot) == 0

    await eventually(left, "no worker consumes the lane")
    async with Collector(console.world, bot) as collector:
        for number in range(3):
            await collector.ask(f"r-{number}")

        async def waiting() -> bool:
            (lane,) = [e for e in await console.viewer.get("/api/lanes") if e["automation_id"] == bot]
            return bool(lane["state"]["waiting"] == 3)

        await eventually(waiting, "requests wait")
        for wrong in ({"confirm": "other"}, {}, {"confirm": {"$ne": ""}}):
            assert (await console.admin.call("POST", f"/api/lanes/{bot}/purge", wrong)).status == 422
        purged = await console.admin.do("POST", f"/api/lanes/{bot}/purge", {"confirm": bot})
        assert purged["requests"] == 3
        assert (
            await console.admin.call("POST", "/api/lanes/nobody/purge", {"confirm": "nobody"})
        ).status == 404

        async def empty() -> bool:
            (lane,) = [e for e in await console.viewer.get("/api/lanes") if e["automation_id"] == bot]
            return bool(lane["state"]["waiting"] == 0)

        await eventually(empty, "the lane is empty")

"""Alerts reach people: tried again until they have them, over a restart too, and no secret on the way."""

import asyncio
import json
import secrets
from datetime import timedelta
from functools import partial
from typing import cast

from infra.alert_notices import RAISED, RESOLVED, add_notice
from infra.alert_targets import Target, Tone
from infra.duty import Duty
from infra.mongo import Document
from tests.harness import World, eventually
from tests.receiver import SECRET, open_receiver
from workers.accounting.delivery import GIVE_UP, MOST_IN_ONE, Courier, end_stale

RAISED_LINE = "[warning] one usable key left: {bot}/pool: one of 2 keys is usable"
RESOLVED_LINE = "[resolved] one usable key left: {bot}/pool"


async def listed(world: World, *arguments: str) -> list[Document]:
    status, stdout, stderr = await world.cli("alerts", "list", "--json", *arguments)
    assert status == 0, stderr
    found: list[Document] = json.loads(stdout)
    return found


async def test_an_alert_and_its_end_are_delivered_to_a_target_that_was_away_and_over_a_restart(
    world: World,
) -> None:
    bot = await world.add_automation()
    for alias in ("Primary", "Backup"):
        await world.add_key(bot, alias)
    async with open_receiver(status=503) as receiver:
        environment = {"KEYWAY_ALERT_URLS": receiver.url, "KEYWAY_ALERT_EVERY_S": "0.3"}
        first = await world.start_accounting(**environment)
        await world.keys.set_status(bot, "Primary", "disabled", "by a person")

        async def tried() -> bool:
            return receiver.refused >= 2

        await eventually(tried, "two tries")
        (alert,) = await listed(world)
        assert (alert["kind"], alert["severity"], alert["delivery"]) == ("pool_low", "warning", "waiting")
        assert alert["delivery_attempts"] >= 2
        assert await first.stop() == 0
        receiver.status = 200
        second = await world.start_accounting(**environment)

        async def told_of_both() -> bool:
            return len(receiver.lines) >= 2

        async def told() -> bool:
            return bool(receiver.lines)

        await eventually(told, "the alert, raised before the restart")
        await world.keys.set_status(bot, "Primary", "active", "by a person")
        await eventually(told_of_both, "its end")

        async def marked() -> bool:
            return await world.mongo.notices.count_documents({"state": "delivered"}) == 2

        await eventually(marked, "both are marked as delivered")
        (alert,) = await listed(world, "--all")
        assert alert["delivery"] == "delivered"
    assert receiver.lines == [RAISED_LINE.format(bot=bot), RESOLVED_LINE.format(bot=bot)]
    assert [message["type"] for message in receiver.took] == ["warning", "success"]
    for service in (first, second):
        assert SECRET not in service.log.read_text()
    refusals = [event for event in first.events() if event["event"] == "alerts_not_delivered"]
    assert {(event["target"], event["error"]) for event in refusals} == {(receiver.name, "it answers 503")}


async def test_a_test_message_says_which_targets_have_it(unserved: World) -> None:
    async with open_receiver() as good, open_receiver(status=404) as bad:
        both = {"KEYWAY_ALERT_URLS": f"{good.url}, {bad.url}", "COLUMNS": "200"}
        of_both, of_good = await asyncio.gather(
            unserved.cli("alerts", "test", **both),
            unserved.cli("alerts", "test", "--json", KEYWAY_ALERT_URLS=good.url),
        )
    status, stdout, stderr = of_both
    assert (status, stderr) == (1, f"error: not delivered to {bad.name}\n")
    assert f"{good.name}  delivered" in stdout
    assert f"{bad.name}  it answers 404" in stdout
    assert SECRET not in stdout + stderr
    status, stdout, _ = of_good
    assert (status, json.loads(stdout)) == (0, [{"target": good.name, "delivered": True, "error": None}])
    assert [message["title"] for message in good.took] == ["Keyway: a test"] * 2


async def test_a_wrong_address_stops_the_start_with_one_line_that_does_not_repeat_it(unserved: World) -> None:
    status, stdout, stderr = await unserved.cli("accounting", KEYWAY_ALERT_URLS=f"nosuch://{SECRET}")
    assert (status, stdout) == (1, "")
    assert stderr.startswith("error: KEYWAY_ALERT_URLS: number 1 is not an address that apprise knows")
    assert len(stderr.splitlines()) == 1
    assert SECRET not in stderr


class Phone:
    """A target in this process."""

    def __init__(self, name: str) -> None:
        self.name, self.failure, self.bodies = name, cast("str | None", None), list[str]()

    async def send(self, _title: str, body: str, _tone: Tone) -> str | None:
        if self.failure is None:
            self.bodies.append(body)
        return self.failure


async def test_each_target_has_every_notice_in_order_and_one_that_is_away_holds_up_no_other(
    unserved: World,
) -> None:
    mongo, name = unserved.mongo, secrets.token_hex(4)
    await mongo.notices.delete_many({})
    duty = Duty(mongo, name, "test")
    phones = [Phone("a"), Phone("b")]
    couriers = [Courier(mongo, duty, cast("Target", phone), ["a", "b"]) for phone in phones]
    now = await mongo.server_time()
    alert = {"_id": name, "kind": "pool_low", "automation_id": "bot", "label": "pool", "times": 1}
    for number in range(MOST_IN_ONE + 1):
        at = now - timedelta(minutes=30) + timedelta(seconds=number)
        notice = {**alert, "reason": f"reason {number:02}"}
        await mongo.transaction(partial(add_notice, mongo, notice, RAISED, at))
    phones[1].failure = "out of order"
    assert await couriers[0].deliver() == 0
    assert await couriers[1].deliver() == 2
    assert await couriers[1].deliver() == 4
    assert await couriers[0].deliver() == 0
    assert await couriers[0].deliver() > 0
    assert len(phones[0].bodies) == 2
    assert await mongo.notices.count_documents({"state": "waiting"}) == MOST_IN_ONE + 1
    await mongo.transaction(partial(add_notice, mongo, {**alert, "reason": ""}, RESOLVED, now))
    phones[1].failure = None
    for courier in couriers:
        while await courier.deliver() == 0:
            pass
    lines = [[line for body in phone.bodies for line in body.splitlines()] for phone in phones]
    assert lines[0] == lines[1]
    assert [line.rpartition(" ")[2] for line in lines[0]] == [f"{n:02}" for n in range(11)] + ["bot/pool"]
    assert await mongo.notices.count_documents({"state": "delivered"}) == MOST_IN_ONE + 2
    old = now - GIVE_UP - timedelta(minutes=1)
    for reason, at in (("old", old), ("new", now)):
        await mongo.transaction(partial(add_notice, mongo, {**alert, "reason": reason}, RAISED, at))
    for has_targets, left in ((True, ["new"]), (False, [])):
        await end_stale(mongo, has_targets=has_targets)
        found = mongo.notices.find({"state": "waiting"})
        assert [notice["reason"] async for notice in found] == left
    states = mongo.notices.find({"state": {"$nin": ["waiting", "delivered"]}}).sort("at", 1)
    assert [notice["state"] async for notice in states] == ["given_up", "no_target"]

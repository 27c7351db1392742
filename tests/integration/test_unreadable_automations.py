"""An automation whose document can't be read harms itself alone: the others are served and told of."""

import json
from typing import Any

from contracts.messages import KeyLease
from tests.console import open_console
from tests.harness import Service, World, eventually
from tests.integration.test_alerts import SOON, ask, raised
from tests.lessee import add_bot, signed_in
from tests.scraped import scrape, services

#: What a field may hold by hand, and what is right.
OF_WORKERS: dict[str, tuple[Any, Any]] = {
    "deadline_s": ("10m", 600),
    "call_timeout_s": (-1, 300),
    "max_in_flight": ("many", None),
    "enabled": (None, True),
}
OF_ACCOUNTING = {"last_heartbeat_at": "yesterday", "created_at": "long ago", "enabled": "perhaps"}
OF_LISTS = {"deadline_s": "10m", "last_heartbeat_at": "yesterday", "rotation": "now"}


async def spoil(world: World, bot: str, field: str, value: Any) -> None:
    """Change an automation's document by hand, as neither Keyway nor the schema would."""
    changed = {"$set": {field: value}}
    await world.mongo.automations.update_one({"_id": bot}, changed, bypass_document_validation=True)


async def served(world: World) -> str:
    """Add an automation with a key."""
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    return bot


async def answered(world: World, bot: str) -> None:
    async with world.client(bot) as keyway:
        await ask(keyway)


def told(service: Service) -> list[tuple[str, str]]:
    """Which automations and fields a service says it can't read, in order."""
    return sorted(
        (event["automation_id"], event["field"])
        for event in service.events()
        if event["event"] == "automation_not_read"
    )


async def test_workers_serve_the_others_and_open_new_ones_beside_automations_that_can_not_be_read(
    world: World,
) -> None:
    wrong = {await served(world): field for field in OF_WORKERS}
    other = await served(world)
    # It sends the events of new automations.
    await world.start_accounting()
    running = await world.start_worker()
    for bot, field in wrong.items():
        await answered(world, bot)
        await spoil(world, bot, field, OF_WORKERS[field][0])
    # Each new automation has the list read again.
    for _ in range(2):
        await answered(world, await served(world))
    # Their lanes go on with what was known of them.
    for bot in (other, *wrong):
        await answered(world, bot)
    assert told(running) == sorted(wrong.items())
    assert "task_restarted" not in running.log.read_text()
    await running.stop()

    starting = await world.start_worker()
    await answered(world, other)
    assert told(starting) == sorted(wrong.items())
    opened = {event["automation_id"] for event in starting.events() if event["event"] == "lane_opened"}
    assert not opened & wrong.keys()
    for bot, field in wrong.items():
        await spoil(world, bot, field, OF_WORKERS[field][1])
    await answered(world, await served(world))
    for bot in wrong:
        await answered(world, bot)


async def test_alerts_and_metrics_go_on_beside_automations_that_can_not_be_read(world: World) -> None:
    wrong = {await served(world): field for field in OF_ACCOUNTING}
    other = await served(world)
    for bot, field in wrong.items():
        await spoil(world, bot, field, OF_ACCOUNTING[field])
    accounting = await world.start_accounting(KEYWAY_METRICS_PORT="0", **SOON)
    key = await world.key(other, "Primary")
    await world.mongo.keys.update_one({"_id": key["_id"]}, {"$set": {"status": "disabled"}})
    await raised(world, "pool_empty", other)

    async def counted() -> bool:
        found = await scrape(services(world, "accounting"))
        return other in found.labels_of("keyway_lane_paused", "automation")

    await eventually(counted, "the other automation in the metrics", every_s=0.5)
    # Alerts and metrics read for themselves.
    assert set(told(accounting)) == set(wrong.items())
    assert len(told(accounting)) <= 2 * len(wrong)
    assert "task_restarted" not in accounting.log.read_text()


async def test_leases_are_granted_beside_an_automation_whose_id_is_none(world: World) -> None:
    await world.mongo.automations.insert_one(
        {"_id": 5, "enabled": True, "created_at": await world.mongo.server_time()},
        bypass_document_validation=True,
    )
    await world.start_accounting()
    leasing = await world.start_leasing()
    bot = await add_bot(world)
    await world.add_key(bot, "Primary")
    async with signed_in(world, bot) as lessee:
        assert isinstance(await lessee.ask(model="gpt-4o-mini"), KeyLease)
    assert told(leasing) == [("5", "id")]


async def test_lists_show_the_others_and_name_the_field_that_can_not_be_read(world: World) -> None:
    wrong = {await world.add_automation(): field for field in OF_LISTS}
    other = await world.add_automation()
    for bot, field in wrong.items():
        await spoil(world, bot, field, OF_LISTS[field])
    for options in ((), ("--json",)):
        status, listed, errors = await world.cli("automations", "list", *options)
        assert status == 0, errors
        assert other in listed
        for bot, field in wrong.items():
            assert f"{bot} can't be read: {field}" in errors
    assert [each["automation_id"] for each in json.loads(listed)] == [other]
    async with open_console(world) as console:
        for path in ("/api/automations", f"/api/automations/{other}", "/api/lanes"):
            answer = await console.admin.call("GET", path)
            assert (answer.status, other in answer.text) == (200, True), (path, answer.text)
        for bot, field in wrong.items():
            answer = await console.admin.call("GET", f"/api/automations/{bot}")
            assert field in answer.text

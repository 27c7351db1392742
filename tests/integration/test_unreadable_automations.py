"""An automation whose document can't be read harms itself alone: the others are served and told of."""

import json
from typing import Any

import pytest

from contracts.messages import KeyLease
from tests.console import open_console
from tests.harness import Service, World, eventually
from tests.integration.test_alerts import SOON, ask, raised
from tests.lessee import add_bot, signed_in
from tests.scraped import scrape, services

CHANGES: list[dict[str, Any]] = [
    {"deadline_s": "10m"},
    {"call_timeout_s": -1},
    {"max_in_flight": "many"},
    {"enabled": None},
]


async def spoil(world: World, bot: str, **changes: Any) -> None:
    """Change an automation's document by hand, as neither Keyway nor the schema would."""
    await world.mongo.automations.update_one({"_id": bot}, {"$set": changes}, bypass_document_validation=True)


async def served(world: World) -> str:
    """Add an automation with a key."""
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    return bot


async def answered(world: World, bot: str) -> None:
    async with world.client(bot) as keyway:
        await ask(keyway)


def told(service: Service) -> list[tuple[str, str]]:
    """Which automations and fields a service says it can't read."""
    return [
        (event["automation_id"], event["field"])
        for event in service.events()
        if event["event"] == "automation_not_read"
    ]


@pytest.mark.parametrize("change", CHANGES, ids=[next(iter(change)) for change in CHANGES])
async def test_workers_serve_the_others_and_open_new_ones_beside_an_automation_that_can_not_be_read(
    world: World, change: dict[str, Any]
) -> None:
    wrong, other = await served(world), await served(world)
    (field,) = change
    # It sends the events of new automations.
    await world.start_accounting()
    running = await world.start_worker()
    await answered(world, wrong)
    await spoil(world, wrong, **change)
    # Each new automation has the list read again.
    for _ in range(2):
        await answered(world, await served(world))
    await answered(world, other)
    # Its lane goes on with what was known of it.
    await answered(world, wrong)
    assert told(running) == [(wrong, field)]
    assert "task_restarted" not in running.log.read_text()
    await running.stop()

    starting = await world.start_worker()
    await answered(world, other)
    assert told(starting) == [(wrong, field)]
    opened = {event["automation_id"] for event in starting.events() if event["event"] == "lane_opened"}
    assert wrong not in opened
    right: dict[str, Any] = {"deadline_s": 600, "call_timeout_s": 300, "max_in_flight": None, "enabled": True}
    await spoil(world, wrong, **right)
    await answered(world, await served(world))
    await answered(world, wrong)


@pytest.mark.parametrize(
    "change",
    [{"last_heartbeat_at": "yesterday"}, {"created_at": "long ago"}, {"enabled": "perhaps"}],
    ids=["heartbeat", "created", "enabled"],
)
async def test_alerts_and_metrics_go_on_beside_an_automation_that_can_not_be_read(
    world: World, change: dict[str, Any]
) -> None:
    wrong, other = await served(world), await served(world)
    (field,) = change
    await spoil(world, wrong, **change)
    accounting = await world.start_accounting(KEYWAY_METRICS_PORT="0", **SOON)
    key = await world.key(other, "Primary")
    await world.mongo.keys.update_one({"_id": key["_id"]}, {"$set": {"status": "disabled"}})
    await raised(world, "pool_empty", other)

    async def counted() -> bool:
        found = await scrape(services(world, "accounting"))
        return other in found.labels_of("keyway_lane_paused", "automation")

    await eventually(counted, "the other automation in the metrics", every_s=0.5)
    # Alerts and metrics read for themselves.
    assert set(told(accounting)) == {(wrong, field)}
    assert len(told(accounting)) <= 2
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


@pytest.mark.parametrize(
    "change",
    [{"deadline_s": "10m"}, {"last_heartbeat_at": "yesterday"}, {"rotation": "now"}],
    ids=["deadline", "heartbeat", "rotation"],
)
async def test_lists_show_the_others_and_name_the_field_that_can_not_be_read(
    world: World, change: dict[str, Any]
) -> None:
    wrong, other = await world.add_automation(), await world.add_automation()
    (field,) = change
    await spoil(world, wrong, **change)
    for options in ((), ("--json",)):
        status, listed, errors = await world.cli("automations", "list", *options)
        assert status == 0, errors
        assert other in listed
        assert f"{wrong} can't be read: {field}" in errors
    assert [each["automation_id"] for each in json.loads(listed)] == [other]
    async with open_console(world) as console:
        for path in ("/api/automations", f"/api/automations/{other}", "/api/lanes"):
            answer = await console.admin.call("GET", path)
            assert (answer.status, other in answer.text) == (200, True), (path, answer.text)
        answer = await console.admin.call("GET", f"/api/automations/{wrong}")
        assert field in answer.text

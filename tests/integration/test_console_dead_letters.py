"""Dead letters over the HTTP API: masked unless an admin reveals them, replayed, dropped."""

from contracts import names
from tests.collector import Collector
from tests.console import Console
from tests.harness import eventually
from tests.integration.test_dead_letters import bury, waiting

PROMPT = "the prompt that nobody needs to see"


async def of(console: Console, bot: str, **wanted: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = await console.viewer.get(
        "/api/dead-letters", automation_id=bot, **wanted
    )
    return found


async def back(console: Console, letters: int) -> None:
    """Wait until so many letters are in the queue: RabbitMQ gives what a reader held back a moment later."""

    async def there() -> bool:
        return await waiting(console.world, names.DEAD_QUEUE) >= letters

    await eventually(there, f"{letters} letters in the queue")


async def test_a_letter_is_masked_until_an_admin_reveals_it_which_is_audited(console: Console) -> None:
    bot = await console.world.add_automation()
    body = f'{{"path": "/moderations", "body": {{"input": "{PROMPT}"}}}}'.encode()
    await bury(console.world, bot, "secret", "internal: <b>by a test</b>", body)
    total = await waiting(console.world, names.DEAD_QUEUE)
    (letter,) = await of(console, bot)
    assert letter["reason"] == "internal: <b>by a test</b>"
    path = f"/api/dead-letters/{letter['id']}"
    await back(console, total)
    masked = await console.viewer.call("GET", path)
    assert (masked.status, masked.json["revealed"], PROMPT in masked.text) == (200, False, False)
    assert (await console.viewer.call("POST", f"{path}/reveal")).status == 403
    assert (await console.viewer.get("/api/audit", target=str(letter["id"]))) == []
    await back(console, total)
    revealed = await console.admin.do("POST", f"{path}/reveal")
    assert (revealed["revealed"], revealed["body"]["body"]["input"]) == (True, PROMPT)
    (entry,) = await console.viewer.get("/api/audit", target=str(letter["id"]))
    assert (entry["action"], entry["actor"]) == ("dead_letter.revealed", "console:ann")
    assert PROMPT not in str(entry)
    await back(console, total)
    assert len(await of(console, bot)) == 1, "it stays where it is"


async def test_letters_are_replayed_and_answered(console: Console) -> None:
    world = console.world
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    async with Collector(world, bot) as collector:
        for number in range(3):
            await bury(world, bot, f"r-{number}", reply_to=collector.queue)
        total = await waiting(world, names.DEAD_QUEUE)
        letters = await of(console, bot)
        await back(console, total)
        first = {"ids": [letters[0]["id"]]}
        assert await console.admin.do("POST", "/api/dead-letters/replay", first) == {
            "done": [letters[0]["id"]], "kept": [], "incomplete": None
        }  # fmt: skip
        await back(console, total - 1)
        rest = await console.admin.do("POST", "/api/dead-letters/replay", {"automation_id": bot})
        assert len(rest["done"]) == 2
        await collector.have(3)
        assert {answer.status for answer in collector.answers} == {"succeeded"}
    assert await of(console, bot) == []
    assert (await console.admin.call("POST", "/api/dead-letters/replay", first)).status == 404


async def test_letters_are_found_and_dropped_by_what_they_say(console: Console) -> None:
    bot = await console.world.add_automation()
    for number in range(3):
        await bury(console.world, bot, f"r-{number}", f"internal: number {number}")
    total = await waiting(console.world, names.DEAD_QUEUE)
    assert [each["request_id"] for each in await of(console, bot, reason="NUMBER 1")] == ["r-1"]
    await back(console, total)
    assert [each["request_id"] for each in await of(console, bot, request_id="r-2")] == ["r-2"]
    for nothing in ({}, {"all": True, "automation_id": bot}, {"ids": ["$ne"]}, {"reason": {"$ne": ""}}):
        assert (await console.admin.call("POST", "/api/dead-letters/drop", nothing)).status == 422
    await back(console, total)
    assert len(await of(console, bot)) == 3
    await back(console, total)
    dropped = {"automation_id": bot, "reason": "number 1"}
    assert len((await console.admin.do("POST", "/api/dead-letters/drop", dropped))["done"]) == 1
    await back(console, total - 1)
    assert (
        len((await console.admin.do("POST", "/api/dead-letters/drop", {"automation_id": bot}))["done"]) == 2
    )

    async def gone() -> bool:
        return await of(console, bot) == []

    await eventually(gone, "no letter is left")
    actions = {entry["action"] for entry in await console.viewer.get("/api/audit", actor="console:ann")}
    assert "dead_letters.dropped" in actions

"""Dead letters over the HTTP API: masked unless an admin reveals them, replayed, dropped."""

from tests.collector import Collector
from tests.console import Console
from tests.harness import eventually
from tests.integration.test_dead_letters import bury, looking

PROMPT = "the prompt that nobody needs to see"


async def of(console: Console, bot: str, **wanted: str) -> list[dict[str, object]]:
    async with looking(console.world):
        found: list[dict[str, object]] = await console.viewer.get(
            "/api/dead-letters", automation_id=bot, **wanted
        )
    return found


async def test_a_letter_is_masked_until_an_admin_reveals_it_which_is_audited(console: Console) -> None:
    bot = await console.world.add_automation()
    body = f'{{"path": "/moderations", "body": {{"input": "{PROMPT}"}}}}'.encode()
    await bury(console.world, bot, "secret", "internal: <b>by a test</b>", body)
    (letter,) = await of(console, bot)
    assert letter["reason"] == "internal: <b>by a test</b>"
    path = f"/api/dead-letters/{letter['id']}"
    async with looking(console.world):
        masked = await console.viewer.call("GET", path)
    assert (masked.status, masked.json["revealed"], PROMPT in masked.text) == (200, False, False)
    assert (await console.viewer.call("POST", f"{path}/reveal")).status == 403
    assert (await console.viewer.get("/api/audit", target=str(letter["id"]))) == []
    async with looking(console.world):
        revealed = await console.admin.do("POST", f"{path}/reveal")
    assert (revealed["revealed"], revealed["body"]["body"]["input"]) == (True, PROMPT)
    (entry,) = await console.viewer.get("/api/audit", target=str(letter["id"]))
    assert (entry["action"], entry["actor"]) == ("dead_letter.revealed", "console:ann")
    assert PROMPT not in str(entry)
    assert len(await of(console, bot)) == 1, "it stays where it is"


async def test_letters_are_replayed_and_answered(console: Console) -> None:
    world = console.world
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    async with Collector(world, bot) as collector:
        for number in range(3):
            await bury(world, bot, f"r-{number}", reply_to=collector.queue)
        letters = await of(console, bot)
        first = {"ids": [letters[0]["id"]]}
        assert await console.admin.do("POST", "/api/dead-letters/replay", first) == {
            "done": [letters[0]["id"]], "kept": [], "incomplete": None
        }  # fmt: skip
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
    assert [each["request_id"] for each in await of(console, bot, reason="NUMBER 1")] == ["r-1"]
    assert [each["request_id"] for each in await of(console, bot, request_id="r-2")] == ["r-2"]
    for nothing in ({}, {"all": True, "automation_id": bot}, {"ids": ["$ne"]}, {"reason": {"$ne": ""}}):
        assert (await console.admin.call("POST", "/api/dead-letters/drop", nothing)).status == 422
    assert len(await of(console, bot)) == 3
    dropped = {"automation_id": bot, "reason": "number 1"}
    assert len((await console.admin.do("POST", "/api/dead-letters/drop", dropped))["done"]) == 1
    assert (
        len((await console.admin.do("POST", "/api/dead-letters/drop", {"automation_id": bot}))["done"]) == 2
    )

    async def gone() -> bool:
        return await of(console, bot) == []

    await eventually(gone, "no letter is left")
    actions = {entry["action"] for entry in await console.viewer.get("/api/audit", actor="console:ann")}
    assert "dead_letters.dropped" in actions

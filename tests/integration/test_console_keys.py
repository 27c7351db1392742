"""Keys over the HTTP API: they go in and never come out."""

import json
import secrets
from datetime import timedelta
from typing import Any

import pytest

from contracts.errors import NoUsableKeyError
from tests.builders import ledger_row
from tests.console import CHAT, Console
from tests.harness import eventually
from workers.console.key_table import SPARKED, KeyTable
from workers.keys.facts import KeyFilter, find_keys


def api_key() -> str:
    return f"sk-test-{secrets.token_hex(16)}"


async def scripted(console: Console, bot: str, alias: str, **script: Any) -> str:
    """An API key that the provider takes."""
    secret = api_key()
    await console.world.simulator.script(f"{bot}-{alias}", api_key=secret, **script)
    return secret


async def test_a_key_is_added_changed_switched_checked_and_removed(console: Console) -> None:
    bot, admin, base_url = (
        await console.world.add_automation(),
        console.admin,
        console.world.simulator.base_url,
    )
    secret = await scripted(console, bot, "Primary")
    new = {"automation_id": bot, "alias": "Primary", "api_key": secret, "base_url": base_url}
    key = await admin.do("POST", "/api/keys", {**new, "requests_per_minute": 60}, status=201)
    path = f"/api/keys/{key['key_id']}"
    assert (key["last_four"], key["status"], key["tier"]) == (secret[-4:], "active", "primary")
    assert (await admin.call("POST", "/api/keys", new)).status == 409

    changed = await admin.do(
        "PATCH", path, {"requests_per_minute": None, "tokens_per_day": 9, "tier": "backup"}
    )
    limits = {
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "tokens_per_day": 9,
        "max_in_flight": None,
    }
    assert (changed["limits"], changed["tier"]) == (limits, "backup")

    disabled = await admin.do("POST", f"{path}/disable", {"reason": "leaked"})
    assert (disabled["status"], disabled["status_reason"]) == ("disabled", "leaked")
    assert disabled["history"][-1]["actor"] == "console:ann"
    assert (await admin.do("POST", f"{path}/enable", {}))["status"] == "active"

    assert await admin.do("POST", f"{path}/check") == {"ok": True, "reason": "the provider takes the key"}
    await console.world.simulator.script(f"{bot}-Primary", api_key=secret, invalid=True)
    assert not (await admin.do("POST", f"{path}/check"))["ok"]

    assert [k["alias"] for k in (await admin.get("/api/keys", automation_id=bot))["keys"]] == ["Primary"]
    await admin.do("DELETE", path, status=204)
    assert (await admin.call("GET", path)).status == 404


async def test_keys_come_in_pages_and_by_what_is_searched_for(console: Console) -> None:
    bot = await console.world.add_automation()
    for alias in ("Alpha", "Beta", "Gamma"):
        await console.world.add_key(bot, alias)
    first = await console.viewer.get("/api/keys", automation_id=bot, limit="2")
    assert [key["alias"] for key in first["keys"]] == ["Alpha", "Beta"]
    rest = await console.viewer.get("/api/keys", automation_id=bot, limit="2", after=first["after"])
    assert ([key["alias"] for key in rest["keys"]], rest["after"]) == (["Gamma"], None)
    found = await console.viewer.get("/api/keys", automation_id=bot, text="AMM")
    assert [key["alias"] for key in found["keys"]] == ["Gamma"]
    assert (await console.viewer.get("/api/keys", automation_id=bot, text="."))["keys"] == []
    assert (await console.viewer.get("/api/keys", automation_id=bot, status="disabled"))["keys"] == []


async def test_a_file_of_keys_is_previewed_and_imported_and_every_line_is_accounted_for(
    console: Console,
) -> None:
    bot, admin = await console.world.add_automation(), console.admin
    taken, good, twice = api_key(), api_key(), api_key()
    await admin.do("POST", "/api/keys", {"automation_id": bot, "alias": "Old", "api_key": taken}, status=201)
    lines = [
        "automation,alias,api_key,rpm,tier",
        f"{bot},Good,{good},60,backup",
        f"{bot},Twice,{twice},,",
        f"{bot},Again,{twice},,",
        f"{bot},Old,{api_key()},,",
        f"{bot},Taken,{taken},,",
        f"nobody-here,Primary,{api_key()},,",
        f"{bot},Wrong,{api_key()},many,",
        f"{bot},Empty,,,",
    ]
    text = "\r\n".join(lines)
    as_csv = {"Content-Type": "text/csv"}
    seen = []
    for query in ("?dry_run=true", ""):
        answer = await admin.call("POST", f"/api/keys/import{query}", data=text, headers=as_csv)
        assert answer.status == 200, answer
        assert not any(secret in answer.text for secret in (taken, good, twice))
        problems = [key["problem"] is not None for key in answer.json["keys"]]
        assert problems == [False, False, True, True, True, True, True, True]
        assert (answer.json["added"], answer.json["dry_run"]) == (2, bool(query))
        seen.append(answer.json["keys"])
        listed = (await admin.get("/api/keys", automation_id=bot))["keys"]
        assert [key["alias"] for key in listed] == (["Old"] if query else ["Good", "Old", "Twice"])
    assert seen[0][0] == {
        "line": 2, "automation_id": bot, "alias": "Good", "last_four": good[-4:], "problem": None
    }  # fmt: skip

    new = [{"automation_id": bot, "alias": "Json", "api_key": api_key(), "tokens_per_minute": 7}]
    assert (await admin.do("POST", "/api/keys/import", new))["added"] == 1
    for body, kind in (("{", "application/json"), ("a,b\n1,2", "text/csv"), ("\xff", "text/csv")):
        answer = await admin.call(
            "POST", "/api/keys/import", data=body.encode("latin-1"), headers={"Content-Type": kind}
        )
        assert answer.status == 422, answer


async def test_the_old_way_to_add_a_key_is_the_same(console: Console) -> None:
    bot, secret = await console.world.add_automation(), api_key()
    new = {"automation_id": bot, "alias": "Primary", "api_key": secret}
    key = await console.admin.do("POST", "/api/admin/openai-keys/", new, status=201)
    assert (await console.admin.get(f"/api/keys/{key['key_id']}"))["alias"] == "Primary"


async def test_no_answer_ever_holds_a_key(console: Console) -> None:
    bot, admin = await console.world.add_automation(), console.admin
    secret = api_key()
    await console.world.simulator.script(f"{bot}-Primary", api_key=secret)
    new = {
        "automation_id": bot, "alias": "Primary", "api_key": secret,
        "base_url": console.world.simulator.base_url,
    }  # fmt: skip
    answers = [await admin.call("POST", "/api/keys", new), await admin.call("POST", "/api/keys", new)]
    path = f"/api/keys/{answers[0].json['key_id']}"
    async with console.world.client(bot) as keyway:
        await keyway.generate("/chat/completions", CHAT)
    await console.world.accounted(bot, 1)
    answers += [
        await admin.call("POST", "/api/keys", {**new, "alias": "x" * 101}),
        await admin.call("POST", "/api/keys", {**new, "requests_per_minute": 0}),
        await admin.call("POST", "/api/keys", {**new, "api_key": [secret]}),
        await admin.call("POST", "/api/keys/import", [{**new, "tier": "none"}]),
        await admin.call("POST", "/api/keys/import", data=json.dumps([new])[:-2]),
        await admin.call("PATCH", path, {"max_in_flight": 3}),
        await admin.call("POST", f"{path}/check"),
        await admin.call("POST", f"{path}/disable", {}),
        *[
            await admin.call("GET", each)
            for each in (
                path, "/api/keys", "/api/automations", "/api/audit", "/api/requests", "/api/usage",
                "/api/usage.csv", "/api/lanes", "/api/alerts", "/api/overview", "/api/dead-letters",
            )
        ],
    ]  # fmt: skip
    assert all(answer.status < 500 for answer in answers)
    assert not [answer for answer in answers if secret in answer.text or secret[:-4] in answer.text]
    for service in console.world.services:
        assert secret not in service.log.read_text()


async def test_a_key_that_the_provider_refuses_is_seen_to_flip(console: Console) -> None:
    bot = await console.world.add_automation()
    key_id = await console.world.add_key(bot, "Primary", {"invalid": True})
    async with console.world.client(bot) as keyway:
        with pytest.raises(NoUsableKeyError):
            await keyway.generate("/chat/completions", CHAT)

    async def flipped() -> bool:
        return bool((await console.viewer.get(f"/api/keys/{key_id}"))["status"] == "error")

    await eventually(flipped, "the key is in error")
    alerts = [a for a in await console.viewer.get("/api/alerts") if a["subject"] == key_id]
    assert [(a["kind"], a["severity"], a["automation_id"]) for a in alerts] == [("key_error", "warning", bot)]
    assert alerts[0]["delivery"] in {"waiting", "no_target"}  # nobody is to be told here


async def test_a_keys_line_is_drawn_from_its_last_calls_that_succeeded(console: Console) -> None:
    world, bot = console.world, await console.world.add_automation()
    ids = [await world.add_key(bot, alias) for alias in ("Primary", "Backup")]
    now = await world.mongo.server_time()
    calls = [*((ids[0], minutes, "ok") for minutes in range(SPARKED + 5, 0, -1)), (ids[0], 70, "ok"),
             (ids[0], 2, "timeout"), (ids[1], 3, "ok")]  # fmt: skip
    await world.mongo.usage.insert_many(
        ledger_row(
            event_id=f"r-{number}:1",
            request_id=f"r-{number}",
            automation_id=bot,
            key_id=key_id,
            outcome=outcome,
            latency_ms=minutes if outcome == "ok" else 9999,
            occurred_at=now - timedelta(minutes=minutes),
        )
        for number, (key_id, minutes, outcome) in enumerate(calls)
    )
    views = await find_keys(world.mongo, KeyFilter(bot), most=None)
    drawn = await KeyTable(world.mongo).sparklines(views)
    assert drawn == {ids[0]: list(range(SPARKED, 0, -1)), ids[1]: [3]}

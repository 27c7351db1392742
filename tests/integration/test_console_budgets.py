"""Budgets and leases over the HTTP API: what may be spent, and who has which key."""

import secrets

from contracts.errors import BudgetExceededError
from tests.console import CHAT, Console
from tests.harness import World, eventually
from tests.lessee import add_bot, has_status, signed_in


async def test_a_budget_is_set_seen_to_be_spent_changed_and_removed(console: Console) -> None:
    world, admin = console.world, console.admin
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    own = {"automation_id": bot, "window": "month", "limit_nanousd": 5_000_000_000}
    made = await admin.do("PUT", "/api/budgets", own)
    assert (made["scope"], made["subject"], made["soft_percent"], made["hard"]) == (
        "automation", bot, 80, True,
    )  # fmt: skip
    of_key = {**own, "key": "Primary", "window": "day", "limit_nanousd": 1, "soft_percent": 50, "hard": False}
    await admin.do("PUT", "/api/budgets", of_key)
    async with world.client(bot) as keyway:
        await keyway.generate("/chat/completions", CHAT)
    (row,) = await world.accounted(bot, 1)

    listed = {
        (b["scope"], b["window"]): b for b in await console.viewer.get("/api/budgets", automation_id=bot)
    }
    assert {b["spent_nanousd"] for b in listed.values()} == {row["cost_nanousd"]}
    assert listed["key", "day"]["subject"] == "Primary"
    assert listed["key", "day"]["period"] == row["day"]
    assert listed["automation", "month"]["period"] == row["day"][:7]

    async with world.client(bot) as keyway:
        changed = await admin.do("PUT", "/api/budgets", {**own, "limit_nanousd": 1})
        assert (changed["limit_nanousd"], changed["hard"]) == (1, True)

        async def refused() -> bool:
            try:
                await keyway.generate("/chat/completions", CHAT, timeout=120)
            except BudgetExceededError:
                return True
            return False

        await eventually(refused, "the automation's budget stops calls")
        named = f"/api/budgets?automation_id={bot}&window=month"
        await admin.do("DELETE", named, status=204)
        assert (await admin.call("DELETE", named)).status == 404
        await keyway.generate("/chat/completions", CHAT, timeout=120)
    await admin.do("DELETE", f"/api/budgets?automation_id={bot}&window=day&key=Primary", status=204)
    assert await console.viewer.get("/api/budgets", automation_id=bot) == []

    entries = await console.viewer.get("/api/audit", target=f"{bot}/monthly budget")
    assert [entry["action"] for entry in entries] == ["budget.removed", "budget.set", "budget.set"]
    assert {entry["actor"] for entry in entries} == {"console:ann"}
    removed, lowered, first = entries
    assert first["before"] is None
    assert (
        lowered["before"]
        == first["after"]
        == {"limit_nanousd": 5_000_000_000, "soft_percent": 80, "hard": True}
    )
    assert removed["before"]["limit_nanousd"] == lowered["after"]["limit_nanousd"] == 1
    of_keys = await console.viewer.get("/api/audit", target=f"{bot}/daily budget of key Primary")
    assert [entry["action"] for entry in of_keys] == ["budget.removed", "budget.set"]


async def test_the_overview_sets_the_day_against_its_budgets(console: Console) -> None:
    bot = await console.world.add_automation()
    limit = 1_000_000_000_000_000
    await console.admin.do(
        "PUT", "/api/budgets", {"automation_id": bot, "window": "day", "limit_nanousd": limit}
    )

    async def told() -> bool:
        today = (await console.viewer.get("/api/overview"))["budgets_today"]
        return bool(today["limit_nanousd"] >= limit and today["count"] >= 1)

    await eventually(told, "the overview counts the budget")
    await console.admin.do("DELETE", f"/api/budgets?automation_id={bot}&window=day", status=204)


async def test_a_budget_of_nobody_or_of_nothing_is_refused(console: Console) -> None:
    bot = await console.world.add_automation()
    good = {"automation_id": bot, "window": "day", "limit_nanousd": 1}
    for status, wrong in (
        (404, {**good, "automation_id": "nobody-here"}),
        (404, {**good, "key": "Primary"}),
        (422, {**good, "key": "Primary", "user": "u-1"}),
        (422, {**good, "window": "week"}),
        (422, {**good, "limit_nanousd": 0}),
        (422, {**good, "limit_nanousd": 10**16}),
        (422, {**good, "soft_percent": 101}),
        (422, {**good, "user": {"$ne": ""}}),
        (422, {**good, "budget": 1}),
    ):
        answer = await console.admin.call("PUT", "/api/budgets", wrong)
        assert answer.status == status, (wrong, answer)
    assert (await console.viewer.call("GET", "/api/budgets?automation_id=nobody-here")).status == 404
    user = f"$where {secrets.token_hex(2)}/.."
    assert (await console.admin.do("PUT", "/api/budgets", {**good, "user": user}))["subject"] == user


async def test_who_has_which_key_until_when_is_seen_and_never_the_key(
    console: Console, leasing: World
) -> None:
    bot = await add_bot(leasing)
    key_id = await leasing.add_key(bot, "Primary")
    async with signed_in(leasing, bot) as lessee:
        lease = await lessee.lease(estimated_tokens=700)
        answer = await console.viewer.call("GET", f"/api/leases?automation_id={bot}&live=true")
        (listed,) = answer.json
        assert (listed["lease_id"], listed["key_alias"], listed["status"]) == (
            lease.lease_id,
            "Primary",
            "open",
        )
        assert leasing.api_keys[-1] not in answer.text
        assert (await console.viewer.get("/api/leases", key_id=key_id, live="true")) == answer.json
        await leasing.keys.set_status(bot, "Primary", "disabled", "test")
        await has_status(leasing, lease, "revoked")
        (revoked,) = await console.viewer.get("/api/leases", automation_id=bot, live="true")
        assert (revoked["status"], revoked["revoked_at"] is None) == ("revoked", False)
        await leasing.mongo.leases.update_one(
            {"_id": lease.lease_id}, {"$set": {"expires_at": lease.expires_at.replace(year=2020)}}
        )
        assert await console.viewer.get("/api/leases", automation_id=bot, live="true") == []
        assert len(await console.viewer.get("/api/leases", automation_id=bot)) == 1

"""What others choose (names, ids, messages of errors) comes back as text, and no filter is a query."""

import json
import secrets

import pytest

from tests.console import CHAT, Console
from tests.integration.test_dead_letters import bury

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
OPERATORS = ('{"$ne": null}', '{"$gt": ""}', "[$ne]", "$where", "{'$regex': '.*'}", "'; return true; //")
#: Every filter that an endpoint takes.
FILTERS = {
    "/api/keys": ("automation_id", "status", "text", "after"),
    "/api/usage": ("automation_id", "by", "first", "last"),
    "/api/usage.csv": ("automation_id", "by", "first", "last"),
    "/api/requests": ("automation_id", "request_id", "user_id", "status", "outcome", "since", "before"),
    "/api/dead-letters": ("automation_id", "reason", "request_id"),
    "/api/audit": ("target", "actor", "before"),
    "/api/budgets": ("automation_id",),
    "/api/leases": ("automation_id", "key_id"),
}


async def add_key(console: Console, bot: str, alias: str) -> str:
    """Add a key that the provider takes, under whatever name; its id."""
    api_key = f"sk-test-{secrets.token_hex(16)}"
    await console.world.simulator.script(f"{bot}-{secrets.token_hex(4)}", api_key=api_key)
    base_url = console.world.simulator.base_url
    new = {"automation_id": bot, "alias": alias, "api_key": api_key, "base_url": base_url}
    key: dict[str, str] = await console.admin.do("POST", "/api/keys", new, status=201)
    return key["key_id"]


async def test_what_others_choose_comes_back_as_json_text_that_no_browser_runs(console: Console) -> None:
    world = console.world
    bot = await world.add_automation()
    key_id = await add_key(console, bot, SCRIPT)
    await console.admin.do("POST", f"/api/keys/{key_id}/disable", {"reason": SCRIPT})
    await console.admin.do("POST", f"/api/keys/{key_id}/enable", {})
    async with world.client(bot) as keyway:
        await keyway.generate(
            "/chat/completions", CHAT, user=SCRIPT, request_id=SCRIPT, metadata={SCRIPT: SCRIPT}
        )
    await world.accounted(bot, 1)
    await bury(world, bot, SCRIPT, SCRIPT)
    shown = {
        f"/api/keys/{key_id}": {},
        "/api/keys": {"automation_id": bot},
        "/api/requests": {"user_id": SCRIPT},
        "/api/usage": {"by": "user", "automation_id": bot},
        "/api/dead-letters": {"automation_id": bot},
        "/api/audit": {"target": f"{bot}/{SCRIPT}"},
    }
    for path, params in shown.items():
        answer = await console.viewer.call("GET", path, params=params)
        assert answer.status == 200, answer
        assert answer.headers["Content-Type"] == "application/json", path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert json.dumps(SCRIPT)[1:-1] in answer.text, path
    for path in (f"/api/{SCRIPT}", f"/api/keys/{SCRIPT}", "/api/automations/%3Cscript%3E"):
        answer = await console.viewer.call("GET", path)
        assert (answer.headers["Content-Type"], answer.status in {404, 422}) == ("application/json", True)


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in FILTERS.items() for name in names], ids=str
)
async def test_no_filter_is_a_query(console: Console, path: str, name: str) -> None:
    for value in OPERATORS:
        for params in ({name: value}, {f"{name}[$ne]": "x"}, {f"{name}.$ne": "x"}):
            answer = await console.viewer.call("GET", path, params=params)
            assert answer.status in {200, 422}, answer
            if name in params and answer.status == 200:
                assert_nothing(path, answer.text, answer.json if "csv" not in path else None)


def assert_nothing(path: str, text: str, found: object) -> None:
    """A filter by what nobody is called finds nothing."""
    if path == "/api/usage.csv":
        assert text.count("\n") == 1
    elif isinstance(found, dict) and path == "/api/keys":
        assert found["keys"] == [] or found["keys"][0]["automation_id"] > "$"
    elif isinstance(found, dict) and path == "/api/requests":
        assert found["requests"] == []
    else:
        assert found == []


async def test_no_body_is_a_query(console: Console) -> None:
    bot = await console.world.add_automation()
    await console.world.add_key(bot, "Primary")
    bodies = [
        ("POST", "/api/session", {"username": {"$ne": ""}, "password": {"$ne": ""}}),
        ("POST", "/api/automations", {"automation_id": {"$ne": ""}}),
        ("PATCH", f"/api/automations/{bot}", {"deadline_s": {"$inc": 1}}),
        ("PATCH", f"/api/automations/{bot}", {"$set": {"enabled": False}}),
        ("POST", "/api/keys", {"automation_id": {"$ne": ""}, "alias": "x", "api_key": "x"}),
        ("POST", "/api/dead-letters/drop", {"automation_id": {"$ne": ""}}),
        ("POST", f"/api/lanes/{bot}/purge", {"confirm": {"$ne": ""}}),
        ("POST", "/api/operators", {"username": {"$ne": ""}}),
    ]
    for method, path, body in bodies:
        assert (await console.admin.call(method, path, body)).status == 422, (path, body)
    assert (await console.admin.get(f"/api/automations/{bot}"))["enabled"]
    for header in ('Bearer {"$ne": ""}', "Bearer $ne", "Basic eyIkbmUiOiAiIn06eA=="):
        answer = await console.nobody.call("GET", "/api/keys", headers={"Authorization": header})
        assert answer.status == 401


async def test_an_alias_that_looks_like_an_operator_is_an_alias(console: Console) -> None:
    bot = await console.world.add_automation()
    for alias in ("$ne", "{'$gt': ''}", "a.b", f"x{secrets.token_hex(2)}"):
        key_id = await add_key(console, bot, alias)
        key = await console.admin.do("PATCH", f"/api/keys/{key_id}", {"tokens_per_day": 5})
        assert (key["alias"], key["limits"]["tokens_per_day"]) == (alias, 5)
    others = await console.viewer.get("/api/keys", automation_id=bot, text="$ne")
    assert [key["alias"] for key in others["keys"]] == ["$ne"]

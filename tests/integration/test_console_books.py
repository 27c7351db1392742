"""What was asked and used over the HTTP API: requests with their timelines, usage, CSV, overview."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.collector import Collector
from tests.console import CHAT, Console
from tests.harness import eventually


@pytest.fixture(scope="session")
async def bot(console: Console) -> str:
    """An automation with three answers, one after a failure, and a refusal without an attempt."""
    world = console.world
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    late = {"path": "/chat/completions", "body": CHAT, "user_id": "eve", "deadline": "2026-01-01T00:00:00Z"}
    async with Collector(world, bot) as collector:
        await collector.ask("refused", json.dumps(late).encode())
        assert (await collector.answer()).status == "failed"
    async with world.client(bot) as keyway:
        for number in range(2):
            await keyway.generate("/chat/completions", CHAT, request_id=f"plain-{number}", user="u-1")
        await world.script(bot, "Primary", error_rate=1.0)
        trying = asyncio.create_task(
            keyway.generate("/chat/completions", CHAT, request_id="tried/twice", user="u-2")
        )

        async def failed() -> bool:
            return any(call["http_status"] == 500 for call in await world.journal(bot))

        await eventually(failed, "the first attempt failed")
        await world.script(bot, "Primary", error_rate=0.0)
        await trying
    await world.accounted(bot, len(await world.journal(bot)))
    return bot


async def ids(console: Console, **wanted: str) -> list[str]:
    found = await console.viewer.get("/api/requests", **wanted)
    return [each["request_id"] for each in found["requests"]]


async def test_requests_are_found_by_whatever_is_known_of_them(console: Console, bot: str) -> None:
    everything = ["tried/twice", "plain-1", "plain-0", "refused"]
    assert await ids(console, automation_id=bot) == everything
    assert await ids(console, automation_id=bot, status="succeeded") == everything[:3]
    assert await ids(console, automation_id=bot, status="failed") == ["refused"]
    assert await ids(console, automation_id=bot, status="running") == []
    assert await ids(console, automation_id=bot, outcome="server_error") == ["tried/twice"]
    assert await ids(console, automation_id=bot, user_id="u-1") == ["plain-1", "plain-0"]
    assert await ids(console, automation_id=bot, user_id="eve") == ["refused"]
    assert await ids(console, request_id="tried/twice") == ["tried/twice"]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert await ids(console, automation_id=bot, since=tomorrow) == []
    assert await ids(console, automation_id=bot, before=tomorrow) == everything
    assert await ids(console, automation_id="nobody-here") == []


async def test_pages_of_requests_have_each_once(console: Console, bot: str) -> None:
    seen, before = [], None
    while True:
        more: dict[str, str] = {} if before is None else {"before": before}
        page = await console.viewer.get("/api/requests", automation_id=bot, limit="1", **more)
        seen += [each["request_id"] for each in page["requests"]]
        before = page["before"]
        if before is None:
            break
    assert seen == ["tried/twice", "plain-1", "plain-0", "refused"]


async def test_a_request_shows_its_attempts_and_where_its_time_went(console: Console, bot: str) -> None:
    found = await console.viewer.get(f"/api/requests/{bot}/tried/twice")
    outcomes = [attempt["outcome"] for attempt in found["attempts"]]
    assert set(outcomes[:-1]) == {"server_error"}
    assert outcomes[-1] == "ok"
    assert (found["summary"]["status"], found["exact"]) == ("succeeded", True)
    assert found["summary"]["attempts"] == len(outcomes)
    names = [step["name"] for step in found["steps"]]
    assert names[0] == "queued"
    assert [name for name in names if name == "attempt"] == ["attempt"] * len(outcomes)
    total_ms = found["summary"]["timings"]["total_ms"]
    assert all(step["start_ms"] + step["duration_ms"] <= total_ms + 50 for step in found["steps"])
    refused = await console.viewer.get(f"/api/requests/{bot}/refused")
    assert (refused["summary"]["code"], refused["attempts"]) == ("deadline_exceeded", [])
    assert (await console.viewer.call("GET", f"/api/requests/{bot}/unknown")).status == 404
    assert "hello" not in str(found)


async def test_a_request_under_way_is_seen(console: Console) -> None:
    world = console.world
    slow = await world.add_automation()
    await world.add_key(slow, "Primary", {"held": True})
    async with world.client(slow) as keyway:
        await keyway.submit("/chat/completions", CHAT, name="kept", request_id="slow")

        async def seen() -> bool:
            return await ids(console, automation_id=slow, status="running") == ["slow"]

        await eventually(seen, "the request is under way")
        found = await console.viewer.get(f"/api/requests/{slow}/slow")
        assert (found["summary"]["status"], found["worker"] is not None) == ("running", True)
    await world.script(slow, "Primary")


async def test_usage_adds_up_in_every_dimension(console: Console, bot: str) -> None:
    rows = await console.world.ledger(bot)
    cost, tokens = (sum(row[name] for row in rows) for name in ("cost_nanousd", "total_tokens"))
    for by in ("key", "automation", "user", "model"):
        report = await console.viewer.get("/api/usage", by=by, automation_id=bot)
        assert report["total"]["sums"]["cost_nanousd"] == cost > 0
        assert sum(row["sums"]["total_tokens"] for row in report["rows"]) == tokens
        assert sum(day["attempts"] for day in report["total"]["daily"]) == len(rows) >= 4
        assert report["others"] is None
        assert len(report["days"]) == len(report["total"]["daily"]) == 30
        for row in report["rows"]:
            assert sum(day["total_tokens"] for day in row["daily"]) == row["sums"]["total_tokens"]
    users = await console.viewer.get("/api/usage", by="user", automation_id=bot, most="1")
    assert [row["subject"] for row in users["rows"]] == ["u-1"]
    assert users["others"]["sums"]["total_tokens"] == tokens - users["rows"][0]["sums"]["total_tokens"]
    everybody = await console.viewer.get("/api/usage", by="model")
    assert everybody["total"]["sums"]["cost_nanousd"] >= cost


async def test_a_report_needs_a_range_that_makes_sense(console: Console) -> None:
    for first, last in (("2026-02-02", "2026-02-01"), ("2020-01-01", "2026-01-01"), ("x", "y")):
        answer = await console.viewer.call("GET", "/api/usage", params={"first": first, "last": last})
        assert answer.status == 422
    day = datetime.now(UTC).date().isoformat()
    assert (await console.viewer.get("/api/usage", first=day, last=day))["days"] == [day]


async def test_usage_is_exported_as_csv_that_no_spreadsheet_runs(console: Console) -> None:
    world = console.world
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    users = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", 'quoted", "user', "plain"]
    async with world.client(bot) as keyway:
        for user in users:
            await keyway.generate("/chat/completions", CHAT, user=user)
    await world.accounted(bot, len(users))
    answer = await console.viewer.call("GET", "/api/usage.csv", params={"by": "user", "automation_id": bot})
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "attachment" in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    expected = {user if user[0] in "pq" else f"'{user}" for user in users}
    assert {row["subject"] for row in rows} == expected
    assert sum(int(row["cost_nanousd"]) for row in rows) == sum(
        row["cost_nanousd"] for row in await world.ledger(bot)
    )


async def test_the_overview_shows_what_happens(console: Console, bot: str) -> None:
    async def shown() -> bool:
        overview = await console.viewer.get("/api/overview")
        return bool(
            overview["today"]["cost_nanousd"] > 0
            and overview["today"]["attempts"] >= 4
            and overview["workers"] >= 1
            and overview["queue_wait"]["count"] > 0
            and overview["provider_time"]["p95_ms"] is not None
            and overview["keys"].get("active", 0) > 0
        )

    await eventually(shown, "the overview shows the answers")

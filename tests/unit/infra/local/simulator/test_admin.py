"""The simulator's admin endpoints."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any, TypeAlias

import pytest
from aiohttp.test_utils import TestClient, TestServer

from infra.local.simulator import PROVIDER, create_app
from infra.local.simulator.script import Script

SECRET = "sk-very-secret-0123456789"
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}

Client: TypeAlias = TestClient[Any, Any]


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(clock: Clock) -> AsyncIterator[Client]:
    """A simulator with one faultless key, `primary`."""
    script = Script.model_validate({"keys": [{"name": "primary", "api_key": SECRET}]})
    async with TestClient(TestServer(create_app(script, clock=clock, random=Random(1)))) as client:
        yield client


async def call(client: Client, key: str = SECRET) -> int:
    answer = await client.post("/v1/chat/completions", json=HELLO, headers={"Authorization": f"Bearer {key}"})
    return answer.status


async def put(client: Client, path: str, body: Any) -> None:
    assert (await client.put(f"/admin/{path}", json=body)).status == 200


async def test_the_journal_is_read_by_time_and_key_and_cleared(client: Client, clock: Clock) -> None:
    await call(client)
    start, clock.now = clock.now, clock.now + 10
    await call(client)
    await call(client, key="sk-other")

    async def count(**query: str) -> int:
        answer = await client.get("/admin/journal", params=query)
        return len((await answer.json())["calls"])

    assert await count() == 3
    assert await count(since=str(start + 10)) == 2
    assert await count(since=str(start + 10), key="primary") == 1
    assert (await client.get("/admin/journal", params={"since": "noon"})).status == 422
    assert await (await client.delete("/admin/journal")).json() == {"removed": 3}
    assert await count() == 0


async def test_a_keys_new_script_replaces_the_old_one_and_keeps_its_window(client: Client) -> None:
    await put(client, "keys/primary", {"requests_per_minute": 1, "error_rate": 1})
    assert await call(client) == 500
    await put(client, "keys/primary", {"requests_per_minute": 2})
    assert [await call(client) for _ in "ab"] == [200, 429]
    key = {"name": "primary", "api_key": SECRET, "requests_per_minute": 3}
    await put(client, "script", {"keys": [key]})
    assert [await call(client) for _ in "ab"] == [200, 429]


async def test_setting_a_script_again_starts_its_refusals_again(client: Client, clock: Clock) -> None:
    for _ in range(2):
        await put(client, "keys/primary", {"rate_limited_for_ms": 500})
        assert await call(client) == 429
        clock.now += 0.5
        assert await call(client) == 200


async def test_a_key_can_get_another_secret(client: Client) -> None:
    await put(client, "keys/primary", {"api_key": "sk-new"})
    assert [await call(client, key) for key in (SECRET, "sk-new")] == [401, 200]


async def test_keys_can_be_added_and_listed(client: Client) -> None:
    await put(client, "keys/backup", {"api_key": "sk-backup", "latency_ms": 5})
    assert await call(client, key="sk-backup") == 200
    listed = await (await client.get("/admin/keys")).json()
    assert listed["unknown_keys"] == "reject"
    assert {key["name"]: key["latency_ms"] for key in listed["keys"]} == {"primary": 0, "backup": 5}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("keys/primary", b"{", "expected JSON"),
        ("keys/primary", b"5", "expected a JSON object"),
        ("keys/primary", b'{"name": "other"}', "name: expected the one in the path, or none"),
        ("keys/backup", b"{}", "api_key: Field required"),
        (
            "keys/backup",
            b'{"api_key": "%b"}' % SECRET.encode(),
            "expected each api_key once, got one under two",
        ),
        ("keys/primary", b'{"error_rate": 2}', "error_rate: Input should be less than or equal to 1"),
        ("keys/primary", b'{"error_rate": 1, "drop_rate": 1}', "expected rates that sum to at most 1, got 2"),
        ("script", b"[", "expected JSON"),
        ("script", b'{"keys": [{"name": "a"}]}', "keys.0.api_key: Field required"),
    ],
)
async def test_wrong_json_is_refused_with_one_message_and_changes_nothing(
    client: Client, path: str, body: bytes, message: str
) -> None:
    assert client.app is not None
    before = client.app[PROVIDER].script
    answer = await client.put(f"/admin/{path}", data=body)
    assert answer.status == 422
    told = (await answer.json())["error"]
    assert told.startswith(message)
    assert SECRET not in told
    assert client.app[PROVIDER].script == before
    assert await call(client) == 200


async def test_only_this_machine_may_ask(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiohttp.web.BaseRequest.remote", "192.0.2.1")
    assert (await client.get("/admin/keys")).status == 403
    assert await call(client) == 200

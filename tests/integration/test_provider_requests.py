"""What a provider is sent: the call of the key, whatever the environment of the calling process says."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from tests.harness import World

SECRET = "sk-environment-0123456789"
CHUNK = {
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}],
}
WHOLE = {
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
#: The headers of a call, but for those that every HTTP client sends.
CALL = {"Accept", "Authorization", "Content-Type", "User-Agent", "X-Client-Request-Id"}
HTTP = {"Accept-Encoding", "Content-Length", "Host"}


class Recorder:
    """A provider that takes every key, and keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        body = json.loads(await request.read() or b"{}")
        if body.get("stream"):
            events = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"
            return web.Response(text=events, content_type="text/event-stream")
        return web.json_response(WHOLE if request.method == "POST" else {"data": []})


@pytest.fixture
async def provider() -> AsyncIterator[tuple[Recorder, str]]:
    recorder = Recorder()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", recorder.serve)
    async with TestServer(app) as server:
        yield recorder, str(server.make_url("/v1"))


def hostile(folder: Path) -> dict[str, str]:
    """An environment that would have the SDK and aiohttp send something else, or elsewhere."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    (home / ".netrc").write_text("default login somebody password else\n")
    (home / ".netrc").chmod(0o600)
    nowhere = "http://127.0.0.1:9"
    variables: dict[str, Any] = {
        "HOME": home,
        "NETRC": home / ".netrc",
        "OPENAI_ORG_ID": "org-foreign",
        "OPENAI_PROJECT_ID": "proj_foreign",
        "OPENAI_API_KEY": "sk-foreign",
        "OPENAI_ADMIN_KEY": "sk-admin-foreign",
        "OPENAI_BASE_URL": f"{nowhere}/v1",
        "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer sk-foreign\nX-Foreign: 1",
        "OPENAI_LOG": "debug",
        **{
            name: nowhere
            for scheme in ("http", "https", "all")
            for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper())
        },
        "NO_PROXY": "",
        "no_proxy": "",
    }
    return {name: str(value) for name, value in variables.items()}


async def test_nothing_in_a_process_environment_goes_with_a_key_or_changes_where_it_goes(
    world: World, tmp_path: Path, provider: tuple[Recorder, str]
) -> None:
    recorder, base_url = provider
    environment = hostile(tmp_path)
    bot = await world.add_automation()
    await world.keys.add(bot, "Primary", SecretStr(SECRET), base_url=base_url)
    await world.start_accounting()
    worker = await world.start("worker", ready="worker_ready", clock_offset_s=0, **environment)
    messages = [{"role": "user", "content": "hello"}]
    async with world.client(bot) as keyway:
        plain = await keyway.generate(
            "/chat/completions", model="gpt-4o-mini", messages=messages, timeout=120, request_id="r-plain"
        )
        asked = keyway.stream(
            "/chat/completions", model="gpt-4o-mini", messages=messages, timeout=120, request_id="r-stream"
        )
        async with asked as stream:
            chunks = [chunk async for chunk in stream]
    assert plain.status == "succeeded"
    assert len(chunks) == 1
    status, checked, errors = await world.cli("keys", "check", bot, "--json", **environment)
    assert status == 0, (checked, errors)
    at = await world.mongo.server_time()
    probe = {"at": at, "interval_s": 30, "cause": "refused"}
    await world.mongo.keys.update_one({"automation_id": bot}, {"$set": {"status": "error", "probe": probe}})
    await worker.wait_for("key_probed")
    asked_of = [(request.method, request.path) for request in recorder.requests]
    assert asked_of == [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models"),
    ]
    for request in recorder.requests:
        sent = {name for name in request.headers if not name.startswith("X-Stainless-")}
        expected = CALL if request.method == "POST" else CALL - {"X-Client-Request-Id"}
        assert sent - HTTP == expected
        assert request.headers.getall("Authorization") == [f"Bearer {SECRET}"]
        assert request.headers["User-Agent"].startswith("AsyncOpenAI/Python")
        assert not request.query_string
    assert SECRET not in worker.log.read_text()


async def test_the_environments_proxy_is_used_where_a_setting_says_so(
    world: World, provider: tuple[Recorder, str]
) -> None:
    recorder, proxy = provider
    environment = {
        "KEYWAY_PROXY_FROM_ENVIRONMENT": "true",
        "http_proxy": proxy.removesuffix("/v1"),
        "no_proxy": "127.0.0.1",
    }
    bot = await world.add_automation()
    await world.keys.add(bot, "Primary", SecretStr(SECRET), base_url="http://provider.invalid/v1")
    await world.start("worker", ready="worker_ready", clock_offset_s=0, **environment)
    async with world.client(bot) as keyway:
        result = await keyway.generate("/moderations", input="hello", timeout=120)
    assert result.status == "succeeded"
    status, *_ = await world.cli("keys", "check", bot, **environment)
    assert status == 0
    assert {request.host for request in recorder.requests} == {"provider.invalid"}

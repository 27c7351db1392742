"""Who may use the console: sign-in, sessions, roles, CSRF, tokens."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.harness import World

NEW_PASSWORD = "correct horse battery staple"


class Browser:
    """A client with a cookie jar, as a browser is one."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url
        self.csrf: dict[str, str] = {}

    async def call(
        self, method: str, path: str, body: Any = None, *, csrf: bool = True, **headers: str
    ) -> tuple[int, Any]:
        sent = {**(self.csrf if csrf else {}), **headers}
        async with self._session.request(method, self._url + path, json=body, headers=sent) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def sign_in(self, username: str, password: str) -> tuple[int, Any]:
        body = {"username": username, "password": password}
        status, answer = await self.call("POST", "/api/session", body)
        if status == 200:
            self.csrf = {"X-CSRF-Token": answer["csrf_token"]}
        return status, answer


@asynccontextmanager
async def browser(url: str) -> AsyncIterator[Browser]:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield Browser(session, url)


@pytest.fixture
async def console_url(world: World) -> str:
    service = await world.start("console", ready="console_ready", KEYWAY_CONSOLE_PORT="0")
    (ready,) = [event for event in service.events() if event["event"] == "console_ready"]
    return str(ready["url"])


async def add_operator(world: World, username: str, role: str) -> str:
    status, stdout, stderr = await world.cli("operators", "add", username, "--role", role, "--json")
    assert status == 0, stderr
    return str(json.loads(stdout)["one_time_password"])


async def test_an_operator_signs_in_chooses_a_password_and_signs_out(world: World, console_url: str) -> None:
    one_time = await add_operator(world, "ann", "admin")
    async with browser(console_url) as ann:
        assert (await ann.call("GET", "/api/operators"))[0] == 401
        assert (await ann.sign_in("ann", "wrong"))[0] == 401
        status, session = await ann.sign_in("ann", one_time)
        assert (status, session["must_change_password"]) == (200, True)
        assert (await ann.call("GET", "/api/operators"))[0] == 403, "nothing before a password of one's own"
        change = {"current": one_time, "new": NEW_PASSWORD}
        assert (await ann.call("PUT", "/api/session/password", change, csrf=False))[0] == 403
        status, session = await ann.call("PUT", "/api/session/password", change)
        assert (status, session["must_change_password"]) == (200, False)
        ann.csrf = {"X-CSRF-Token": session["csrf_token"]}
        assert (await ann.call("GET", "/api/operators"))[0] == 200
        assert (await ann.sign_in("ann", one_time))[0] == 401
        assert (await ann.sign_in("ann", NEW_PASSWORD))[0] == 200
        assert (await ann.call("DELETE", "/api/session"))[0] == 204
        assert (await ann.call("GET", "/api/session"))[0] == 401

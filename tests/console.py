"""The console as tests reach it: over HTTP, as a browser with a cookie jar or as a script with a token."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from pydantic import SecretStr

from tests.harness import World
from workers.console.access.operators import Operators, Role
from workers.console.access.sessions import ApiTokens

PASSWORD = "correct horse battery staple"
ADMIN, VIEWER = "ann", "victor"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text) if self.text else None


class Client:
    """Somebody who calls the HTTP API; `headers` go with each call."""

    def __init__(self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> None:
        self._session, self.url, self.headers = session, url, dict(headers)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Answer:
        sent = {**self.headers, **(headers or {})}
        if body is not None:
            more["json"] = body
        url = self.url + path
        async with self._session.request(
            method, url, headers=sent, allow_redirects=False, **more
        ) as response:
            return Answer(response.status, response.headers.copy(), await response.text())

    async def get(self, path: str, **params: str) -> Any:
        """The JSON of an answer that has to be good."""
        answer = await self.call("GET", path, params=params)
        assert answer.status == 200, (path, answer)
        return answer.json

    async def do(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """The JSON of a change that has to succeed."""
        answer = await self.call(method, path, body)
        assert answer.status == status, (path, answer)
        return answer.json

    async def sign_in(self, username: str, password: str = PASSWORD) -> Answer:
        """Sign in, and from then on send the CSRF token along."""
        answer = await self.call("POST", "/api/session", {"username": username, "password": password})
        if answer.status == 200:
            self.headers["X-CSRF-Token"] = answer.json["csrf_token"]
        return answer


@dataclass
class Console:
    """A console that runs, with an admin and a viewer who have chosen their passwords."""

    world: World
    url: str
    session: aiohttp.ClientSession
    tokens: dict[str, SecretStr] = field(default_factory=dict)

    @property
    def admin(self) -> Client:
        return self.script(ADMIN)

    @property
    def viewer(self) -> Client:
        return self.script(VIEWER)

    @property
    def nobody(self) -> Client:
        return Client(self.session, self.url, {})

    def script(self, username: str) -> Client:
        """An operator's script."""
        bearer = f"Bearer {self.tokens[username].get_secret_value()}"
        return Client(self.session, self.url, {"Authorization": bearer})

    def automation(self, name: str) -> Client:
        """An automation that calls by itself."""
        bearer = f"Bearer {self.world.tokens[name].get_secret_value()}"
        return Client(self.session, self.url, {"Authorization": bearer})

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[Client]:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            yield Client(session, self.url, {})

    async def add_operator(self, username: str, role: Role) -> None:
        """Add an operator with `PASSWORD`, and a token for their scripts."""
        operators = Operators(self.world.mongo)
        await operators.add(username, role)
        await operators.set_password(username, SecretStr(PASSWORD))
        _, self.tokens[username] = await ApiTokens(self.world.mongo).add(username, "tests", role, days=1)


@asynccontextmanager
async def open_console(world: World, *, mongo_url: str | None = None) -> AsyncIterator[Console]:
    """Start a console in a world, which stops it at its end; `mongo_url` is another way to MongoDB."""
    environment = {"KEYWAY_CONSOLE_PORT": "0"} | (
        {} if mongo_url is None else {"KEYWAY_MONGO_URL": mongo_url}
    )
    service = await world.start("console", ready="console_ready", clock_offset_s=0, **environment)
    (ready,) = [event for event in service.events() if event["event"] == "console_ready"]
    # No cookies are kept: whoever has some has them in a browser.
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        console = Console(world, str(ready["url"]), session)
        await console.add_operator(ADMIN, Role.ADMIN)
        await console.add_operator(VIEWER, Role.VIEWER)
        yield console

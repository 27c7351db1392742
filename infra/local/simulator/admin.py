"""The simulator's admin endpoints: its journal and its script, for whoever is on this machine."""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from infra.local.simulator.provider import Provider
from infra.local.simulator.script import KeyScript, Script


class Admin:
    """Handlers over one provider."""

    def __init__(self, provider: Provider) -> None:
        """Serve this provider's journal and script."""
        self._provider = provider

    def application(self) -> web.Application:
        """What is mounted at `/admin`."""
        app = web.Application(middlewares=[only_from_loopback])
        app.add_routes(
            [
                web.get("/journal", self.journal),
                web.delete("/journal", self.clear),
                web.get("/keys", self.keys),
                web.put("/keys/{name}", self.put_key),
                web.put("/script", self.put_script),
            ]
        )
        return app

    async def journal(self, request: web.Request) -> web.Response:
        """The calls, `?since=` a Unix time, `?key=` by name."""
        try:
            since = float(request.query.get("since", 0))
        except ValueError:
            return wrong("since: expected a Unix time in seconds")
        return answer({"calls": self._provider.journal.calls(since, request.query.get("key"))})

    async def clear(self, _: web.Request) -> web.Response:
        """Forget the calls."""
        return answer({"removed": self._provider.journal.clear()})

    async def keys(self, _: web.Request) -> web.Response:
        """The script, without secrets."""
        script = self._provider.script
        return answer({"unknown_keys": script.unknown_keys, "keys": [public(key) for key in script.keys]})

    async def put_key(self, request: web.Request) -> web.Response:
        """Replace one key's script; its `api_key` may be left out when it is known."""
        name = request.match_info["name"]
        known = {key.name: key.api_key for key in self._provider.script.keys}
        try:
            fields = orjson.loads(await request.read())
            if not isinstance(fields, dict):
                return wrong("expected a JSON object")
            if fields.setdefault("name", name) != name:
                return wrong("name: expected the one in the path, or none")
            if name in known:
                fields.setdefault("api_key", known[name])
            key = KeyScript.model_validate(fields)
            self._provider.set_key(key)
        except (orjson.JSONDecodeError, ValidationError) as error:
            return wrong(explain(error))
        return answer(public(key))

    async def put_script(self, request: web.Request) -> web.Response:
        """Replace the whole script."""
        try:
            self._provider.configure(Script.model_validate(orjson.loads(await request.read())))
        except (orjson.JSONDecodeError, ValidationError) as error:
            return wrong(explain(error))
        return await self.keys(request)


@web.middleware
async def only_from_loopback(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse who is not on this machine."""
    if not (request.remote and ipaddress.ip_address(request.remote).is_loopback):
        return answer({"error": "the admin endpoints answer on loopback only"}, status=403)
    return await handler(request)


def explain(error: orjson.JSONDecodeError | ValidationError) -> str:
    """One line on the first thing that is wrong; it never repeats a value."""
    if isinstance(error, orjson.JSONDecodeError):
        return "expected JSON"
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason


def public(key: KeyScript) -> dict[str, Any]:
    """A key's script without its secret."""
    return key.model_dump(mode="json", exclude={"api_key"})


def wrong(message: str) -> web.Response:
    """422 with the reason."""
    return answer({"error": message}, status=422)


def answer(body: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")

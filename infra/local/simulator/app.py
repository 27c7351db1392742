"""The simulator as an application: its routes, and what ends with it."""

import asyncio
import time
from pathlib import Path
from random import Random

from aiohttp import web

from infra.local.simulator.admin import Admin, answer
from infra.local.simulator.journal import Journal
from infra.local.simulator.provider import Clock, Provider, Sleep
from infra.local.simulator.rejections import unknown_path
from infra.local.simulator.script import DEMO, Script

#: Larger bodies are answered with 413.
MAX_BODY_BYTES = 16 * 1024 * 1024

PROVIDER = web.AppKey("provider", Provider)


def create_app(
    script: Script | None = None,
    *,
    journal_path: Path | None = None,
    clock: Clock = time.time,
    random: Random | None = None,
    sleep: Sleep = asyncio.sleep,
) -> web.Application:
    """The simulator as an application; `app[PROVIDER]` is at hand for tests in the same process.

    Run it with `handler_cancellation=True`, as `aiohttp.test_utils.TestServer` does, so that it notices at
    once when a client goes.

    Args:
        script: what to do with which key; by default every key is good.
        journal_path: a file to which each call is appended as a line of JSON.
        clock: Unix seconds.
        random: source of ids and of what the script leaves to chance.
        sleep: how latency passes.
    """
    journal = Journal(journal_path)
    provider = Provider(script or DEMO, journal, clock=clock, random=random or Random(), sleep=sleep)  # noqa: S311 - chance, not secrets

    async def end_calls(_: web.Application) -> None:
        await provider.stop()

    async def close_journal(_: web.Application) -> None:
        journal.close()

    async def healthz(_: web.Request) -> web.Response:
        return answer({"status": "ok", "in_flight": provider.in_flight})

    async def nowhere(request: web.Request) -> web.Response:
        return answer(unknown_path(request.method, request.path).body, status=404)

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[PROVIDER] = provider
    app.router.add_route("*", "/v1/{path:.*}", provider.serve)
    app.router.add_get("/healthz", healthz)
    app.add_subapp("/admin", Admin(provider).application())
    app.router.add_route("*", "/{path:.*}", nowhere)
    app.on_shutdown.append(end_calls)
    app.on_cleanup.append(close_journal)
    return app

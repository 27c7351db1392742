"""A provider on this machine: OpenAI's HTTP API with scripted limits and faults, and a journal of every call.

    python -m infra.local.simulator --port 0 [--host 127.0.0.1] [--script FILE.json] [--journal FILE.jsonl]
                                    [--port-file FILE]

Without a script every key is good. With one (`simulator_script.Script`):

    {"unknown_keys": "reject", "keys": [{"name": "primary", "api_key": "sk-…", "requests_per_minute": 60}]}

Under `/v1`, with `Authorization: Bearer …`: `POST /chat/completions` and `/responses` (both also streamed),
`/embeddings`, `/moderations`, `/images/generations`, and `GET /models`, which no limit or quota refuses.

Without authorization, `/admin` on loopback only; what is wrong is answered with 422 and `{"error": …}`:

    GET    /healthz                       {"status": "ok", "in_flight": calls without an answer yet}
    GET    /admin/journal?since=&key=     {"calls": [...]}: `simulator_journal.Call`, in order of their ends
    DELETE /admin/journal                 forgets them; the file keeps its lines
    GET    /admin/keys                    the script without secrets
    PUT    /admin/keys/{name}             a key's script, whole; without `api_key` it keeps the one it has
    PUT    /admin/script                  the whole script

A key whose script is replaced has still used what it used: its limits go on from there.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import uvloop
from aiohttp import web
from pydantic import ValidationError

from infra.local.simulator_admin import Admin, answer, explain
from infra.local.simulator_journal import Journal
from infra.local.simulator_provider import Clock, Provider, Sleep
from infra.local.simulator_rejections import unknown_path
from infra.local.simulator_script import DEMO, Script

#: Larger bodies are answered with 413.
MAX_BODY_BYTES = 16 * 1024 * 1024
BACKLOG = 1024
#: Seconds that connections get to close when the simulator stops.
SHUTDOWN_S = 1.0

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


async def run(app: web.Application, host: str, port: int, port_file: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        bound = runner.addresses[0][1]
        if port_file:
            half = port_file.with_name(f"{port_file.name}.new")
            half.write_text(str(bound))
            half.replace(port_file)
        sys.stdout.write(f"simulator listening on http://{host}:{bound}/v1\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await runner.cleanup()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.local.simulator", description="A simulated provider."
    )
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--script", type=Path, help="JSON file; by default every key is good")
    parser.add_argument("--journal", type=Path, help="JSONL file to which every call is appended")
    parser.add_argument("--port-file", type=Path, help="file to write the port to, once it listens")
    options = parser.parse_args(arguments)
    try:
        script = Script.model_validate_json(options.script.read_bytes()) if options.script else DEMO
        app = create_app(script, journal_path=options.journal)
        uvloop.run(run(app, options.host, options.port, options.port_file))
    except ValidationError as error:
        sys.exit(f"{options.script}: {explain(error)}")
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""The simulator's command line; the package says how it is used."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from aiohttp import web
from pydantic import ValidationError

from infra.local.simulator.admin import explain
from infra.local.simulator.app import create_app
from infra.local.simulator.script import DEMO, Script

BACKLOG = 1024
#: Seconds that connections get to close when the simulator stops.
SHUTDOWN_S = 1.0


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

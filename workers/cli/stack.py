"""`keyway up`, `down` and `status`: the whole stack on this machine."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias
from urllib.parse import urlsplit

import typer

from contracts.errors import KeywayError
from infra.errors import PlatformError, StackError
from infra.local.home import AlreadyRunningError, Home
from infra.local.state import StackState, running_state, supervisor_pid
from workers.cli.session import JsonOption, actor_here, err, out, print_json

if TYPE_CHECKING:
    from pydantic import SecretStr

    from infra.local.stack import StackInfo

Demo: TypeAlias = Callable[["StackInfo"], Coroutine[Any, Any, None]]


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once everything is ready.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many generation workers run.")] = 2,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="A provider's base URL; without it, one is simulated.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove the data of earlier runs first.")] = False,
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Send no generation through the stack.")] = False,
) -> None:
    """Run the whole stack on this machine and send one generation through it; Ctrl-C stops it."""
    from infra.local.packages import ensure_installed
    from infra.local.stack import outside_services
    from infra.local.supervisor import clear

    home = Home()
    state = running_state(home)
    if state and (fresh or not detach):
        raise AlreadyRunningError(f"already running (pid {supervisor_pid(state)}); see keyway status")
    if state:
        err.print(f"already running (pid {supervisor_pid(state)}); see keyway status", highlight=False)
        return
    if fresh:
        asyncio.run(clear(home))
    has_rabbitmq, has_mongodb = outside_services(os.environ)
    ensure_installed(err, rabbitmq=not has_rabbitmq, mongod=not has_mongodb)
    start = _up_detached if detach else _up_here
    start(home, workers, upstream, None if no_demo else _demo(upstream))


def down() -> None:
    """Stop the stack and wait until every process of it is gone."""
    from infra.local.supervisor import stop

    home = Home()
    with err.status("stopping"):
        count = asyncio.run(stop(home))
    err.print(f"stopped; all {count} processes are gone" if count else "nothing is running", highlight=False)


def status(as_json: JsonOption = False) -> None:
    """Show where the parts of the running stack are; the exit status is 1 when it is not ready."""
    state = running_state(Home()) or StackState()
    if as_json:
        print_json(state.model_dump(exclude={"supervisor_started", "own_master_key"}))
    elif state.pids:
        _show(state)
    else:
        err.print("nothing is running; start it with: keyway up", highlight=False)
    if not state.ready:
        raise typer.Exit(1)


def masked(url: str) -> str:
    """The address without its password."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")).geturl()


def _up_here(home: Home, workers: int, upstream: str | None, demo: Demo | None) -> None:
    from infra.local.stack import Layout
    from infra.local.supervisor import run

    spinner = err.status("starting")

    async def on_ready(info: "StackInfo") -> None:
        spinner.stop()
        _show_addresses(info)
        _show_first_operator(await _first_operator(info))
        if demo:
            try:
                await demo(info)
            except (PlatformError, KeywayError) as error:
                _print(f"the demo failed: {error}")
        _print("Ctrl-C stops everything")

    with spinner:
        asyncio.run(run(home, Layout.whole(workers, simulator=upstream is None), _report, on_ready))


def _up_detached(home: Home, workers: int, upstream: str | None, demo: Demo | None) -> None:
    from infra.local.detached import start_detached, supervisor_command
    from infra.local.stack import StackInfo

    with err.status("starting"):
        command = supervisor_command(home, workers, simulator=upstream is None)
        info = StackInfo.of(home, start_detached(home, command, _print))
    _show_addresses(info)
    _show_first_operator(asyncio.run(_first_operator(info)))
    if demo:
        try:
            asyncio.run(demo(info))
        except (PlatformError, KeywayError) as error:
            raise StackError(f"the stack is up, but the demo failed: {error}") from None
    _print("it goes on running; keyway down stops it")


def _demo(upstream: str | None) -> Demo:
    async def demo(info: "StackInfo") -> None:
        from workers.cli.demo import run_demo

        await run_demo(info, upstream=upstream)

    return demo


def _show_addresses(info: "StackInfo") -> None:
    _print(f"RabbitMQ    {masked(info.amqp_url.get_secret_value())}")
    _print(f"management  {masked(info.amqp_admin_url.get_secret_value())}")
    _print(f"MongoDB     {masked(info.mongo_url.get_secret_value())}")
    if info.simulator_url:
        _print(f"provider    {info.simulator_url} (simulated)")
    if info.console_url:
        _print(f"console     {info.console_url}")
    for name, url in info.metrics_urls.items():
        _print(f"metrics     {url} ({name})")


async def _first_operator(info: "StackInfo") -> "SecretStr | None":
    """Make the console's first operator, where there is none yet; their one-time password."""
    from infra.mongo import connect
    from infra.settings import Settings
    from workers.console.access.operator_changes import OperatorChanges

    os.environ.update(info.environment)
    settings = Settings.load()
    async with connect(settings.mongo_url.get_secret_value(), settings.mongo_database) as mongo:
        return await OperatorChanges.of(mongo, actor_here()).ensure_first()


def _show_first_operator(password: "SecretStr | None") -> None:
    if password is not None:
        _print(f"            sign in as admin with {password.get_secret_value()}")
        _print(
            "            (it is asked to be changed, and not shown again: keyway operators reset-password)"
        )


def _show(state: StackState) -> None:
    out.print("ready" if state.ready else "starting")
    for name, url in state.model_dump(
        include={"amqp_url", "amqp_admin_url", "mongo_url", "simulator_url", "console_url"}
    ).items():
        if url:
            out.print(f"{name:<15} {masked(url)}", highlight=False, soft_wrap=True)
    for name, url in state.metrics_urls.items():
        out.print(f"{'metrics':<15} {url} ({name})", highlight=False, soft_wrap=True)
    for kind, pids in state.pids.items():
        out.print(f"{kind:<15} pid {', '.join(map(str, pids)) or '-'}", highlight=False)


def _report(line: str) -> None:
    _print(f"{time.strftime('%H:%M:%S')} {line}")


def _print(line: str) -> None:
    # The terminal may have gone, which must not keep the stack from stopping.
    with contextlib.suppress(OSError):
        err.print(line, markup=False, highlight=False, soft_wrap=True)

"""The command line `keyway`: one line on standard error and status 1 where something fails."""

import sys
from importlib import import_module
from typing import Any, cast

try:
    import typer
    from typer.core import TyperGroup
except ImportError:
    sys.exit("keyway: the command line needs the platform; install it with: pip install 'keyway[platform]'")

import structlog
from rich.console import Console

from contracts.errors import KeywayError
from infra.errors import PlatformError
from infra.mongo import PyMongoError

#: Where each command, or group of commands, is; in the order of `keyway --help`.
COMMANDS = {
    "up": "stack:up",
    "status": "stack:status",
    "down": "stack:down",
    "init": "services:init",
    "worker": "services:worker",
    "accounting": "services:accounting",
    "leasing": "services:leasing",
    "console": "services:console",
    "settings": "services:settings",
    "generate": "generate:generate",
    "automations": "automations:app",
    "keys": "keys:app",
    "leases": "leases:app",
    "budgets": "budgets:app",
    "prices": "prices:app",
    "operators": "operators:app",
    "alerts": "alerts:app",
    "dead": "dead:app",
    "results": "results:app",
    "usage": "usage:app",
}


class LazyGroup(TyperGroup):
    """The top of the command line; a command is imported when it is asked for: it needs a part of Keyway."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = dict.fromkeys(COMMANDS, cast("Any", None))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # as Typer calls it
        """The commands' names; none is imported for it."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  # the same
        """A command, or a group of commands, by its name; None: there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(f"workers.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            command: Any = typer.main.get_group(found)
        else:
            single = typer.Typer(add_completion=False)
            single.command()(found)
            command = typer.main.get_command(single)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="keyway",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def keyway() -> None:
    """OpenAI generations for automations, over RabbitMQ."""
    # Standard output is for the answer. The stream is looked up for each line, since tests replace it.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def main() -> None:
    """Run the command that the arguments name."""
    try:
        app()
    except (PlatformError, KeywayError) as error:
        _fail(str(error))
    except PyMongoError as error:
        _fail(f"KEYWAY_MONGO_URL: no answer from MongoDB ({type(error).__name__}); `keyway up` starts one")
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(reason: str) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {reason}", highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()

"""The command line `keyway`: one line on standard error and status 1 where something fails."""

import sys

try:
    import typer
except ImportError:
    sys.exit("keyway: the command line needs the platform; install it with: pip install 'keyway[platform]'")

from contracts.errors import KeywayError
from infra.errors import PlatformError
from infra.mongo import PyMongoError
from workers.cli import (
    alerts,
    automations,
    budgets,
    dead,
    generate,
    keys,
    leases,
    operators,
    prices,
    results,
    services,
    stack,
    usage,
)
from workers.cli.session import err

app = typer.Typer(
    name="keyway",
    help="OpenAI generations for automations, over RabbitMQ.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(stack.up)
app.command()(stack.status)
app.command()(stack.down)
app.command()(services.init)
app.command()(services.worker)
app.command()(services.accounting)
app.command()(services.leasing)
app.command()(services.console)
app.command()(services.settings)
app.add_typer(automations.app, name="automations")
app.add_typer(keys.app, name="keys")
app.add_typer(leases.app, name="leases")
app.add_typer(budgets.app, name="budgets")
app.add_typer(prices.app, name="prices")
app.add_typer(operators.app, name="operators")
app.add_typer(alerts.app, name="alerts")
app.add_typer(dead.app, name="dead")
app.add_typer(results.app, name="results")
app.command()(generate.generate)
app.add_typer(usage.app, name="usage")


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
    err.print(f"[bold red]error:[/] {reason}", highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()

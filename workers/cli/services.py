"""`keyway init`, `worker`, `accounting`, `leasing`, `settings`: one service each, as production runs it."""

from typing import Annotated

import typer
import uvloop
from pydantic import SecretStr

from infra.mongo import connect as connect_mongo
from infra.mongo import wait_for_mongo
from infra.settings import EnvironmentSettings, Settings
from infra.telemetry import configure_logging
from infra.tracing_settings import TracingSettings
from infra.vault import Vault
from workers.cli.session import actor_here, err, load_settings, out, print_table


def init(
    operator: Annotated[
        bool, typer.Option("--operator/--no-operator", help="Make the console's first operator, an admin.")
    ] = True,
) -> None:
    """Create what is missing: vhost, exchanges, queues, collections, indexes. Harmless to repeat."""
    settings = load_settings()
    configure_logging(settings, "init")
    Vault(settings.master_keys)
    password = uvloop.run(_init(settings, operator=operator))
    err.print("RabbitMQ and MongoDB are ready for Keyway.")
    if password is not None:
        err.print("The console's first operator is admin. Their one-time password, which is not shown again:")
        out.print(password.get_secret_value(), highlight=False, soft_wrap=True)


def worker(
    lanes: Annotated[
        str, typer.Option(help="Serve these automations only, `a,b,…`; default: all.", envvar="KEYWAY_LANES")
    ] = "",
) -> None:
    """Run one generation worker until SIGTERM; it finishes what is in flight."""
    from workers.generation import app

    settings = load_settings()
    if lanes:
        settings = settings.model_copy(update={"lanes": frozenset(filter(None, lanes.split(",")))})
    uvloop.run(app.run(settings))


def accounting() -> None:
    """Run the accounting consumer until SIGTERM; a second one stands by."""
    from workers.accounting import app

    uvloop.run(app.run(load_settings()))


def leasing() -> None:
    """Run one leasing worker, which lends keys to automations, until SIGTERM."""
    from workers.leasing import app

    uvloop.run(app.run(load_settings()))


def console() -> None:
    """Run the web console and the HTTP API until SIGTERM."""
    from workers.console import app

    uvloop.run(app.run(load_settings()))


def settings() -> None:
    """Print every setting, its default and what it is for."""
    rows = []
    kinds: tuple[type[EnvironmentSettings], ...] = (Settings, TracingSettings)
    for kind in kinds:
        for name, field in kind.model_fields.items():
            default = "" if field.default_factory or field.is_required() else str(field.default or "")
            rows.append(
                [f"{kind.model_config['env_prefix']}{name.upper()}", default, field.description or ""]
            )
    print_table("Settings, from the environment", ["name", "default", "what for"], rows)


async def _init(settings: Settings, *, operator: bool) -> SecretStr | None:
    from infra.broker import connect as connect_broker
    from infra.broker import declare_topology
    from infra.management import management
    from infra.queue_bounds import bound_queues
    from workers.console.access.operator_changes import OperatorChanges

    async with management(settings) as admin:
        await admin.ensure_vhost()
        await bound_queues(admin, settings.queue_max_bytes)
    async with connect_mongo(settings.mongo_url.get_secret_value(), settings.mongo_database) as mongo:
        await wait_for_mongo(mongo)
        await mongo.ensure_schema()
        password = await OperatorChanges.of(mongo, actor_here()).ensure_first() if operator else None
    _, connection = await connect_broker(settings, "init")
    async with connection:
        await declare_topology(connection)
    return password

"""What commands have in common: settings, connections, and how they print."""

import asyncio
import getpass
import json
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from infra.local.state import running_environment
from infra.mongo import Mongo
from infra.mongo import connect as connect_mongo
from infra.settings import Settings
from infra.vault import Vault
from workers.keys.registry import KeyRegistry

if TYPE_CHECKING:
    from infra.provision import Provisioner

T = TypeVar("T")

#: Answers go to standard output, all else to standard error.
out = Console()
err = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]


def load_settings() -> Settings:
    """Settings from the environment; what is not set there comes from the stack that `keyway up` runs here.

    Raises:
        SettingsError: one of them is wrong.
    """
    for name, value in running_environment().items():
        os.environ.setdefault(name, value)
    return Settings.load()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end."""
    return asyncio.run(work)


def print_json(value: object) -> None:
    """The answer, for scripts; times as RFC 3339."""
    sys.stdout.write(json.dumps(value, default=_plain, indent=2) + "\n")


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table for people; a column whose name ends with `>` is aligned to the right."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        table.add_column(
            column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    out.print(table)


@dataclass(frozen=True, slots=True)
class Platform:
    """Open connections, for a command that changes or shows what is kept."""

    settings: Settings
    mongo: Mongo
    actor: str

    def keys(self, *, with_vault: bool = False) -> KeyRegistry:
        """The registry of keys; with the vault where secrets are written."""
        return KeyRegistry(self.mongo, Vault(self.settings.master_keys) if with_vault else None, self.actor)

    @asynccontextmanager
    async def provisioner(self) -> "AsyncIterator[Provisioner]":
        """What adds and changes automations; it needs RabbitMQ too."""
        from infra.broker import connect as connect_broker
        from infra.management import management
        from infra.provision import Provisioner

        async with management(self.settings) as admin:
            await admin.ensure_vhost()
            _, connection = await connect_broker(self.settings, "cli")
            async with connection:
                yield Provisioner(self.mongo, admin, connection, self.settings)


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """Connect to MongoDB, by the settings."""
    settings = load_settings()
    async with connect_mongo(settings.mongo_url.get_secret_value(), settings.mongo_database) as mongo:
        await mongo.ping()
        yield Platform(settings, mongo, actor=f"cli:{getpass.getuser()}")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"no JSON for {type(value).__name__}")

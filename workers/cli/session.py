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
    from workers.console.access.audit import AuditLog
    from workers.console.access.operator_changes import OperatorChanges
    from workers.console.automation_changes import AutomationChanges
    from workers.console.budget_changes import BudgetChanges
    from workers.console.key_changes import KeyChanges

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

    @property
    def audit(self) -> "AuditLog":
        """The log of who changed what, which the console shows."""
        from workers.console.access.audit import AuditLog

        return AuditLog(self.mongo)

    def key_changes(self, *, with_vault: bool = False) -> "KeyChanges":
        """What changes keys; with the vault where secrets are written or read."""
        from workers.console.key_changes import KeyChanges

        vault = Vault(self.settings.master_keys) if with_vault else None
        registry = KeyRegistry(self.mongo, vault, self.actor)
        proxied = self.settings.proxy_from_environment
        return KeyChanges(self.mongo, vault, registry, self.audit, self.actor, proxy_from_environment=proxied)

    def budget_changes(self) -> "BudgetChanges":
        """What changes budgets."""
        from workers.budgets.registry import BudgetRegistry
        from workers.console.budget_changes import BudgetChanges

        return BudgetChanges(BudgetRegistry(self.mongo, self.actor), self.audit, self.actor)

    def operator_changes(self) -> "OperatorChanges":
        """What changes operators."""
        from workers.console.access.operator_changes import OperatorChanges

        return OperatorChanges.of(self.mongo, self.actor)

    @asynccontextmanager
    async def automation_changes(self) -> "AsyncIterator[AutomationChanges]":
        """What adds and changes automations; it needs RabbitMQ too."""
        from infra.broker import connect as connect_broker
        from infra.lanes import QueueWatch
        from infra.management import management
        from infra.provision import Provisioner
        from workers.console.automation_changes import AutomationChanges
        from workers.console.automations import AutomationList
        from workers.console.lanes import LaneDesk

        async with management(self.settings) as admin:
            await admin.ensure_vhost()
            _, connection = await connect_broker(self.settings, "cli")
            async with connection:
                provisioner = Provisioner(self.mongo, admin, connection, self.settings)
                lanes = LaneDesk(self.mongo, admin, QueueWatch(admin))
                automations = AutomationList(self.mongo)
                yield AutomationChanges(provisioner, automations, lanes, self.audit, self.actor)


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """Connect to MongoDB, by the settings."""
    settings = load_settings()
    async with connect_mongo(settings.mongo_url.get_secret_value(), settings.mongo_database) as mongo:
        await mongo.ping()
        yield Platform(settings, mongo, actor_here())


def actor_here() -> str:
    """Who types commands here, as histories and the audit log name them."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user need not have a name
        return f"cli:{os.getuid()}"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"no JSON for {type(value).__name__}")

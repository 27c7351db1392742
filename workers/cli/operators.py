"""`keyway operators`: who may sign in to the console, for whoever has the platform's settings."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.key_facts import moment
from workers.cli.session import JsonOption, err, out, platform, print_json, print_table, run

if TYPE_CHECKING:
    from pydantic import SecretStr

app = typer.Typer(help="Who may sign in to the console.", no_args_is_help=True)

Username = Annotated[str, typer.Argument(help="The operator's username.")]


class RoleOption(StrEnum):
    """What an operator may do."""

    VIEWER = "viewer"
    ADMIN = "admin"


@app.command()
def add(
    username: Username,
    role: Annotated[RoleOption, typer.Option(help="What they may do: look, or change things.")] = (
        RoleOption.VIEWER
    ),
    as_json: JsonOption = False,
) -> None:
    """Add an operator and print a one-time password, which is shown this once."""
    from workers.console.access.operators import Role

    async def work() -> "SecretStr":
        async with platform() as p:
            return await p.operator_changes().add(username, Role(role.value))

    _print_password(username, run(work()), as_json=as_json)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List operators."""
    from workers.console.access.operators import Operator, Operators

    async def work() -> list[Operator]:
        async with platform() as p:
            return await Operators(p.mongo).list()

    listed = run(work())
    if as_json:
        print_json(
            [
                {
                    "username": operator.username,
                    "role": operator.role.value,
                    "enabled": operator.enabled,
                    "must_change_password": operator.must_change_password,
                    "created_at": operator.created_at,
                }
                for operator in listed
            ]
        )
    elif not listed:
        err.print("There are no operators yet. `keyway init` makes the first.")
    else:
        rows = [
            [o.username, o.role.value, "yes" if o.enabled else "no", moment(o.created_at)] for o in listed
        ]
        print_table("Operators", ["operator", "role", "enabled", "since"], rows)


@app.command("reset-password")
def reset_password(username: Username, as_json: JsonOption = False) -> None:
    """Give an operator a new one-time password; whoever is signed in as them is signed out."""

    async def work() -> "SecretStr":
        async with platform() as p:
            return await p.operator_changes().reset_password(username)

    _print_password(username, run(work()), as_json=as_json)


@app.command("set")
def set_(
    username: Username,
    role: Annotated[RoleOption | None, typer.Option(help="What they may do from now on.")] = None,
    enabled: Annotated[bool | None, typer.Option(help="Whether they may sign in.")] = None,
) -> None:
    """Change what an operator may do; what is not named stays as it is."""
    from workers.console.access.operators import Role

    if role is None and enabled is None:
        raise typer.BadParameter("name at least one of --role, --enabled, --no-enabled")

    async def work() -> None:
        async with platform() as p:
            chosen = None if role is None else Role(role.value)
            await p.operator_changes().change(username, role=chosen, enabled=enabled)

    run(work())
    err.print(f"Changed {username}.")


def _print_password(username: str, password: "SecretStr", *, as_json: bool) -> None:
    if as_json:
        print_json({"username": username, "one_time_password": password.get_secret_value()})
        return
    out.print(password.get_secret_value(), highlight=False, soft_wrap=True)
    err.print(
        f"That is {username}'s one-time password. The console asks for another; this one is not shown again."
    )

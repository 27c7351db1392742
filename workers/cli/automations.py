"""`keyway automations`: add, list, switch, and give a new token."""

from typing import Annotated

import typer

from workers.cli.session import JsonOption, err, out, platform, print_json, print_table, run

app = typer.Typer(help="The automations that may ask for generations.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The automation's id: a-z, 0-9 and -, at most 63.")]


@app.command()
def add(name: Name, as_json: JsonOption = False) -> None:
    """Add an automation and print its service token, which is shown this once."""

    async def work() -> str:
        async with platform() as p, p.provisioner() as provisioner:
            return (await provisioner.add(name, actor=p.actor)).get_secret_value()

    token = run(work())
    if as_json:
        print_json({"automation_id": name, "service_token": token})
        return
    out.print(token, highlight=False, soft_wrap=True)
    err.print(f"That is {name}'s service token, its password at RabbitMQ. It is not shown again.")
    err.print(f"Next: keyway keys add {name} Primary")


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List automations."""

    async def work() -> list[dict[str, object]]:
        async with platform() as p:
            keys = await p.keys().list()
            listed = [document async for document in p.mongo.automations.find().sort("_id", 1)]
            return [
                {
                    "automation_id": document["_id"],
                    "enabled": document["enabled"],
                    "keys": sum(key["automation_id"] == document["_id"] for key in keys),
                    "active_keys": sum(
                        key["automation_id"] == document["_id"] and key["status"] == "active" for key in keys
                    ),
                    "created_at": document["created_at"],
                }
                for document in listed
            ]

    listed = run(work())
    if as_json:
        print_json(listed)
    elif not listed:
        err.print("There are no automations yet. Add one: keyway automations add NAME")
    else:
        print_table(
            "Automations",
            ["automation", "enabled", "keys>", "active>"],
            [
                [
                    str(a["automation_id"]),
                    "yes" if a["enabled"] else "no",
                    str(a["keys"]),
                    str(a["active_keys"]),
                ]
                for a in listed
            ],
        )


@app.command()
def disable(name: Name) -> None:
    """Switch an automation off: its requests are answered with `automation_disabled`."""
    _switch(name, enabled=False)


@app.command()
def enable(name: Name) -> None:
    """Switch an automation on again."""
    _switch(name, enabled=True)


@app.command("rotate-token")
def rotate_token(name: Name, as_json: JsonOption = False) -> None:
    """Give an automation a new service token; connections that are open stay open."""

    async def work() -> str:
        async with platform() as p, p.provisioner() as provisioner:
            return (await provisioner.rotate_token(name)).get_secret_value()

    token = run(work())
    if as_json:
        print_json({"automation_id": name, "service_token": token})
    else:
        out.print(token, highlight=False, soft_wrap=True)


def _switch(name: str, *, enabled: bool) -> None:
    async def work() -> None:
        async with platform() as p, p.provisioner() as provisioner:
            await provisioner.set_enabled(name, enabled=enabled, actor=p.actor)

    run(work())
    err.print(f"{name} is {'enabled' if enabled else 'disabled'}.")

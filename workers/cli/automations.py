"""`keyway automations`: add, list, switch, and give a new token."""

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from infra.automation_documents import problem_of, read_automation
from infra.living_processes import living
from infra.mongo import Document
from workers.cli.budgets import limits_of, set_budgets
from workers.cli.key_facts import moment
from workers.cli.rotate_token import rotate_token
from workers.cli.session import JsonOption, err, out, platform, print_json, print_table, run
from workers.cli.signs_of_life import signs_of_life
from workers.console.automations import StoredAutomation

app = typer.Typer(help="The automations that may ask for generations.", no_args_is_help=True)
app.command("rotate-token")(rotate_token)

Name = Annotated[str, typer.Argument(help="The automation's id: a-z, 0-9 and -, at most 63.")]


MaxInFlight = Annotated[
    int | None, typer.Option(min=0, help="Calls at a time, over all its keys and all workers; 0: no cap.")
]
DeadlineS = Annotated[
    int | None, typer.Option(min=1, max=86_400, help="Seconds a request may take that names no deadline.")
]
CallTimeoutS = Annotated[
    int | None, typer.Option(min=1, max=1200, help="Seconds that one call to the provider may take.")
]
AllowLeases = Annotated[
    bool | None,
    typer.Option("--allow-leases/--no-allow-leases", help="Whether it may ask for keys to call itself."),
]
DailyBudgetUsd = Annotated[str | None, typer.Option(help="USD it may spend each UTC day; 0: no such budget.")]
MonthlyBudgetUsd = Annotated[
    str | None, typer.Option(help="USD it may spend each UTC month; 0: no such budget.")
]


@app.command()
def add(
    name: Name,
    max_in_flight: MaxInFlight = None,
    deadline_s: DeadlineS = None,
    call_timeout_s: CallTimeoutS = None,
    allow_leases: AllowLeases = None,
    daily_budget_usd: DailyBudgetUsd = None,
    monthly_budget_usd: MonthlyBudgetUsd = None,
    as_json: JsonOption = False,
) -> None:
    """Add an automation and print its service token, which is shown this once."""
    settings = _settings(max_in_flight, deadline_s, call_timeout_s, allow_leases)
    limits = limits_of(daily_budget_usd, monthly_budget_usd)

    async def work() -> str:
        async with platform() as p, p.automation_changes() as changes:
            token = await changes.add(name, settings)
            await set_budgets(p, name, limits)
            return token.get_secret_value()

    token = run(work())
    if as_json:
        print_json({"automation_id": name, "service_token": token})
        return
    out.print(token, highlight=False, soft_wrap=True)
    err.print(f"That is {name}'s service token, its password at RabbitMQ. It is not shown again.")
    err.print(f"Next: keyway keys add {name} Primary")


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List automations: their keys, which of their processes are alive, and whose token rotates.

    One whose document can't be read is named on standard error instead.
    """

    async def work() -> list[dict[str, Any]]:
        async with platform() as p:
            keys = await p.keys().list()
            processes = await living(p.mongo)
            listed = [
                document async for document in p.mongo.automations.find().sort("_id", 1) if _is_read(document)
            ]
            return [
                {
                    "automation_id": document["_id"],
                    "enabled": document["enabled"],
                    "paused": document.get("paused", False),
                    "keys": sum(key["automation_id"] == document["_id"] for key in keys),
                    "active_keys": sum(
                        key["automation_id"] == document["_id"] and key["status"] == "active" for key in keys
                    ),
                    "deadline_s": document["deadline_s"],
                    "call_timeout_s": document["call_timeout_s"],
                    "max_in_flight": document.get("max_in_flight"),
                    "allow_leases": document.get("allow_leases", False),
                    "created_at": document["created_at"],
                    "rotation": document.get("rotation"),
                    "last_heartbeat_at": document.get("last_heartbeat_at"),
                    "processes": processes.get(document["_id"], []),
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
            ["automation", "enabled", "keys>", "active>", "alive", "token"],
            [
                [
                    a["automation_id"],
                    ("paused" if a["paused"] else "yes") if a["enabled"] else "no",
                    str(a["keys"]),
                    str(a["active_keys"]),
                    signs_of_life(a["processes"], a["last_heartbeat_at"]),
                    f"rotates since {moment(a['rotation']['since'])}" if a["rotation"] else "",
                ]
                for a in listed
            ],
        )


def _is_read(document: Document) -> bool:
    """Whether an automation can be shown; where not, say why."""
    try:
        read_automation(StoredAutomation, document)
    except ValidationError as error:
        field, reason = problem_of(error)
        err.print(f"{document['_id']} can't be read: {field}: {reason}", soft_wrap=True, markup=False)
        return False
    return True


@app.command("set")
def set_(
    name: Name,
    max_in_flight: MaxInFlight = None,
    deadline_s: DeadlineS = None,
    call_timeout_s: CallTimeoutS = None,
    allow_leases: AllowLeases = None,
    daily_budget_usd: DailyBudgetUsd = None,
    monthly_budget_usd: MonthlyBudgetUsd = None,
) -> None:
    """Change an automation's settings; what is not named stays as it is."""
    settings = _settings(max_in_flight, deadline_s, call_timeout_s, allow_leases)
    limits = limits_of(daily_budget_usd, monthly_budget_usd)
    if not settings and not limits:
        options = "--max-in-flight, --deadline-s, --call-timeout-s, --allow-leases, --daily-budget-usd"
        raise typer.BadParameter(f"name at least one of {options}")

    async def work() -> None:
        async with platform() as p, p.automation_changes() as changes:
            if settings:
                await changes.change(name, settings)
            await set_budgets(p, name, limits)

    run(work())
    err.print(f"Changed {name}.")


@app.command()
def disable(name: Name) -> None:
    """Switch an automation off: its requests are answered with `automation_disabled`."""
    _change(name, {"enabled": False}, "disabled")


@app.command()
def pause(name: Name) -> None:
    """Leave an automation's requests in their queue; what workers have in hand is finished."""
    _change(name, {"paused": True}, "paused")


@app.command()
def resume(name: Name) -> None:
    """Serve an automation's requests again."""
    _change(name, {"paused": False}, "resumed")


@app.command()
def enable(name: Name) -> None:
    """Switch an automation on again."""
    _change(name, {"enabled": True}, "enabled")


def _settings(
    max_in_flight: int | None, deadline_s: int | None, call_timeout_s: int | None, allow_leases: bool | None
) -> dict[str, int | None]:
    """The settings that were named, as they stand in an automation's document."""
    settings: dict[str, int | None] = {}
    if max_in_flight is not None:
        settings["max_in_flight"] = max_in_flight or None
    if deadline_s is not None:
        settings["deadline_s"] = deadline_s
    if call_timeout_s is not None:
        settings["call_timeout_s"] = call_timeout_s
    if allow_leases is not None:
        settings["allow_leases"] = allow_leases
    return settings


def _change(name: str, fields: dict[str, int | None], done: str) -> None:
    async def work() -> None:
        async with platform() as p, p.automation_changes() as changes:
            await changes.change(name, fields)

    run(work())
    err.print(f"{name} is {done}.")

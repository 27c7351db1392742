"""`keyway budgets`: what automations, keys and users may spend in a UTC day or month."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from infra.money import nanousd, usd
from workers.budgets.budget import Window
from workers.budgets.registry import BudgetRegistry, Standing, Subject
from workers.cli.key_facts import moment
from workers.cli.session import JsonOption, Platform, err, platform, print_json, print_table, run

app = typer.Typer(help="What automations, keys and users may spend.", no_args_is_help=True)


class WindowName(StrEnum):
    """What a budget is for, in UTC."""

    DAY = "day"
    MONTH = "month"


Automation = Annotated[str, typer.Argument(help="Whose budget, or whose key's or user's.")]
Key = Annotated[str | None, typer.Option(help="The budget of this key, by its alias.")]
User = Annotated[str | None, typer.Option(help="The budget of this user of the automation.")]


@app.command("set")
def set_(
    automation: Automation,
    key: Key = None,
    user: User = None,
    daily_usd: Annotated[str | None, typer.Option(help="USD for each UTC day.")] = None,
    monthly_usd: Annotated[str | None, typer.Option(help="USD for each UTC month.")] = None,
    soft_percent: Annotated[
        int | None, typer.Option(min=1, max=100, help="An alert from this share on; 80 at first.")
    ] = None,
    hard: Annotated[
        bool | None,
        typer.Option("--hard/--soft", help="Whether it stops calls when spent; at first it does."),
    ] = None,
) -> None:
    """Set budgets, or change them; in force at the next call."""
    limits = limits_of(daily_usd, monthly_usd)
    if not limits:
        raise typer.BadParameter("name --daily-usd or --monthly-usd")
    subject = _subject(automation, key, user)

    async def work() -> list[str]:
        async with platform() as p:
            budgets = p.budget_changes()
            return [
                (await budgets.set(subject, window, limit, soft_percent=soft_percent, hard=hard)).name
                for window, limit in limits.items()
            ]

    for name in run(work()):
        err.print(f"Set the {name}.", highlight=False, markup=False)


@app.command("list")
def list_(
    automation: Annotated[str | None, typer.Option(help="Only this automation's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List budgets, and what is spent of them by the books."""

    async def work() -> Sequence[Standing]:
        async with platform() as p:
            return await BudgetRegistry(p.mongo, p.actor).list(automation)

    listed = run(work())
    if as_json:
        print_json([_facts(standing) for standing in listed])
    elif not listed:
        err.print("There are no budgets yet. Set one: keyway budgets set AUTOMATION --daily-usd 5")
    else:
        rows = [
            [
                s.budget.automation_id,
                "" if s.budget.scope == "automation" else f"{s.budget.scope} {s.budget.label}",
                s.period,
                usd(s.spent),
                usd(s.budget.limit),
                f"{100 * s.spent // s.budget.limit}%",
                "stops calls" if s.budget.hard else "alerts only",
                moment(datetime.fromtimestamp(s.until, UTC)),
            ]
            for s in listed
        ]
        columns = ["automation", "of", "in", "spent>", "of USD>", "used>", "when spent", "anew (UTC)"]
        print_table("Budgets", columns, rows)


@app.command()
def remove(
    automation: Automation,
    window: Annotated[WindowName, typer.Option(help="Which one.")],
    key: Key = None,
    user: User = None,
) -> None:
    """Remove a budget."""
    subject = _subject(automation, key, user)
    of: Window = "day" if window is WindowName.DAY else "month"

    async def work() -> None:
        async with platform() as p:
            await p.budget_changes().remove(subject, of)

    run(work())
    err.print("Removed the budget.")


def limits_of(daily_usd: str | None, monthly_usd: str | None) -> dict[Window, int]:
    """The limits that were named, in nano-USD."""
    named: dict[Window, str | None] = {"day": daily_usd, "month": monthly_usd}
    return {window: nanousd(text) for window, text in named.items() if text is not None}


async def set_budgets(p: Platform, automation: str, limits: dict[Window, int]) -> None:
    """Set an automation's own budgets; a limit of 0 removes the one that is there."""
    registry, changes, subject = BudgetRegistry(p.mongo, p.actor), p.budget_changes(), Subject(automation)
    for window, limit in limits.items():
        if limit:
            await changes.set(subject, window, limit)
        elif await registry.find(subject, window) is not None:
            await changes.remove(subject, window)


def _subject(automation: str, key: str | None, user: str | None) -> Subject:
    if key is not None and user is not None:
        raise typer.BadParameter("name --key or --user, not both")
    return Subject(automation, key, user)


def _facts(standing: Standing) -> dict[str, Any]:
    """What scripts are told of a budget."""
    budget = standing.budget
    return {
        "automation_id": budget.automation_id,
        "scope": budget.scope,
        "subject": budget.label,
        "window": budget.window,
        "period": standing.period,
        "limit_nanousd": budget.limit,
        "spent_nanousd": standing.spent,
        "soft_percent": budget.soft_percent,
        "hard": budget.hard,
        "until": datetime.fromtimestamp(standing.until, UTC),
    }

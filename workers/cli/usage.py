"""`keyway usage`: the books of a day, by key, automation, user or model; and whether they are right."""

from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from infra.alerts import day_of
from infra.money import usd
from infra.mongo import Document
from infra.totals import SUMMED, sound_totals
from workers.accounting.rebuild import Difference, Rebuild
from workers.budgets.registry import BudgetRegistry
from workers.cli.session import JsonOption, err, platform, print_json, print_table, run

app = typer.Typer(help="What a day used and cost.")

Automation = Annotated[str | None, typer.Option(help="Only this automation's.")]


class Dimension(StrEnum):
    """What usage can be told apart by."""

    KEY = "key"
    AUTOMATION = "automation"
    USER = "user"
    MODEL = "model"


@app.callback(invoke_without_command=True)
def usage(
    context: typer.Context,
    by: Annotated[Dimension, typer.Option(help="What to tell usage apart by.")] = Dimension.KEY,
    day: Annotated[str | None, typer.Option(help="UTC day, YYYY-MM-DD; default: today.")] = None,
    automation: Automation = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a day used and cost."""
    if (command := context.invoked_subcommand) is not None:
        sources = [context.get_parameter_source(name) for name in context.params]
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            raise typer.BadParameter(f"options of {command} stand behind it: keyway usage {command} …")
        return
    named = None if day is None else _day(day)

    async def work() -> tuple[str, list[Document]]:
        async with platform() as p:
            chosen = named or day_of(await p.mongo.server_time())
            query: Document = {"dimension": by.value, "day": chosen, "attempts": {"$ne": 0}}
            if automation is not None:
                query["automation_id"] = automation
            found = p.mongo.usage_daily.find(query).sort([("automation_id", 1), ("label", 1)])
            return chosen, await sound_totals(found)

    chosen, totals = run(work())
    if as_json:
        fields = ("automation_id", "subject", "label", *SUMMED)
        head = {"by": by.value, "day": chosen}
        print_json([head | {field: total.get(field, 0) for field in fields} for total in totals])
    elif not totals:
        err.print(f'Nothing was used on {chosen}. Send a request: keyway generate AUTOMATION "hello"')
    else:
        print_usage(chosen, by, totals)


@app.command()
def rebuild(
    day: Annotated[str | None, typer.Option(help="Only this UTC day, YYYY-MM-DD.")] = None,
    automation: Automation = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; fail if a total differs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every total with the ledger that it is the sum of, and put right what differs.

    Budgets then count what the totals say.

    Accounting may run meanwhile. It may be stopped and repeated at any time.
    """
    chosen = None if day is None else _day(day)

    async def work() -> tuple[int, list[Difference]]:
        compared, differences = 0, list[Difference]()
        async with platform() as p:
            books = Rebuild(p.mongo, day=chosen, automation_id=automation)
            with Progress(console=err) as progress:
                days = await books.days()
                for each in progress.track(days, description="Comparing days"):
                    for automation_id in days[each]:
                        comparison = await books.check(each, automation_id)
                        compared += comparison.count
                        differences += comparison.differences
                        while comparison.differences and not dry_run:
                            await books.mend(comparison)
                            comparison = await books.check(each, automation_id)
            if not dry_run:
                await BudgetRegistry(p.mongo, p.actor).rebuild(automation)
                done = {"day": chosen, "compared": compared, "differences": len(differences)}
                await p.audit.write(p.actor, "totals.rebuilt", automation or "all automations", after=done)
        return compared, differences

    compared, differences = run(work())
    differing = len({difference.total for difference in differences})
    if as_json:
        repaired = 0 if dry_run else differing
        print_json(
            {"compared": compared, "differences": [asdict(d) for d in differences], "repaired": repaired}
        )
    elif not differences:
        err.print(f"{compared} totals compared, none differs.")
    else:
        _print_differences(differences)
        what = "differ" if dry_run else "differed, and are right now"
        err.print(f"{compared} totals compared, {differing} {what}.")
    if differences and dry_run:
        raise typer.Exit(1)


def _print_differences(differences: list[Difference]) -> None:
    rows = [
        [
            *(escape(text) for text in (d.day, d.automation_id, d.dimension, d.subject)),
            "(no total)" if d.found is None and d.field == "attempts" else d.field,
            "-" if d.found is None else f"{d.found:,}",
            "-" if d.expected is None else f"{d.expected:,}",
        ]
        for d in differences
    ]
    columns = ["day", "automation", "by", "of", "field", "is>", "should be>"]
    print_table("Totals that differ from the ledger", columns, rows)


def print_usage(day: str, by: Dimension, totals: list[Document]) -> None:
    """The table for people; `*` marks sums in which calls without a known price are missing."""
    rows = [
        [
            *([] if by is Dimension.AUTOMATION else [total["automation_id"]]),
            total["label"],
            str(total["attempts"]),
            str(total["succeeded"]),
            f"{total['prompt_tokens']:,}",
            f"{total['completion_tokens']:,}",
            usd(total["cost_nanousd"]) + ("*" if total["unpriced"] else ""),
            f"{total['latency_ms'] / total['attempts']:.0f} ms",
        ]
        for total in totals
    ]
    named = ["automation"] if by is Dimension.AUTOMATION else ["automation", by.value]
    columns = [*named, "calls>", "ok>", "tokens in>", "tokens out>", "cost>", "latency>"]
    print_table(f"Usage of {day} (UTC)", columns, rows)
    if any(total["unpriced"] for total in totals):
        err.print("* calls to models without a known price are not in the sum")
    if ambiguous := sum(total.get("ambiguous", 0) for total in totals):
        err.print(f"{ambiguous} of the calls ended unknown, since their worker died; they count no tokens")


def _day(text: str) -> str:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a day; expected YYYY-MM-DD") from None
